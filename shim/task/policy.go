package task

import (
	"errors"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/shim/config"
)

// compile makes the policy of a container from the host's policy file, the
// annotations and the flags. The file is read for each container: a change is
// in force for the next one. A file that cannot be used stops all, since nobody
// knows what it would have forbidden.
func compile(cfg config.Config, id string, peers []string, spec *specs.Spec) (*annotations.Policy, error) {
	host, err := config.LoadPolicy(cfg.Policy)
	var problems annotations.Problems
	switch {
	case errors.As(err, &problems):
		return nil, refuseAll(cfg.Policy, problems.Short())
	case err != nil:
		return nil, refuseAll(cfg.Policy, err.Error())
	}
	return annotations.Compile(annotations.Input{
		ID: id, Peers: peers, Annotations: spec.Annotations, Spec: spec, Host: host, Enforced: config.Enforced,
		Private: cfg.Private(),
	})
}

func refuseAll(file, why string) error {
	return &annotations.Refusal{
		Rule: "policy file", Origin: annotations.Origin{Layer: annotations.LayerBaseline},
		What: "to start any container", Why: "the policy file of this host cannot be used: " + why,
		Instead: "have the host's administrator correct " + file,
	}
}
