package task

import (
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/nanoclaw/nanoclaw/annotations"
)

// narrowed returns the resources of an update, as JSON, within the policy. What
// is above the host's ceiling is refused, as it is for a new container, and so
// is what does not fit into the VM.
func narrowed(p *annotations.Policy, fits func(*specs.LinuxResources) error, resources *anypb.Any) ([]byte, error) {
	var r specs.LinuxResources
	if err := json.Unmarshal(resources.GetValue(), &r); err != nil {
		return nil, fmt.Errorf("read the new limits: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if err := p.CheckResources(&r); err != nil {
		return nil, err
	}
	p.NarrowResources(&r)
	if err := fits(&r); err != nil {
		return nil, err
	}
	return json.Marshal(&r)
}
