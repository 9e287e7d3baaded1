package task

import (
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/nanoclaw/nanoclaw/annotations"
)

// narrowed returns the resources of an update within the policy. What is above
// the host's ceiling is refused, as it is for a new container.
func narrowed(p *annotations.Policy, resources *anypb.Any) (*specs.LinuxResources, error) {
	var r specs.LinuxResources
	if err := json.Unmarshal(resources.GetValue(), &r); err != nil {
		return nil, fmt.Errorf("read the new limits: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if err := p.CheckResources(&r); err != nil {
		return nil, err
	}
	p.NarrowResources(&r)
	return &r, nil
}
