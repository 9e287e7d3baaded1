package config

import (
	"errors"
	"fmt"
	"os"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/internal/ownedfile"
)

// DefaultPolicy is the policy file of a host whose configuration names no other.
const DefaultPolicy = "/etc/nanoclaw/policy.yaml"

// Enforced is what this version's shim and guest enforce besides mounts and
// limits. A container whose policy needs more is refused. Each part that
// enforces something adds its capability here, and nowhere else.
var Enforced = annotations.Enforced{
	annotations.CapExec, annotations.CapReadonlyTools, annotations.CapHide, annotations.CapLifetime, annotations.CapNetwork,
	annotations.CapNetworkReadonly, annotations.CapSecrets, annotations.CapAudit,
}

// Private are the folders and files of this host that no container may be given:
// who can write there can rewrite what containers may do, or did.
func (c *Config) Private() []string {
	places := []string{c.Audit.Dir, c.RunDir, c.Policy, c.SignOff()}
	if c.ExtraRoots != "" {
		places = append(places, c.ExtraRoots)
	}
	return places
}

// SignOff is the file that says who has reviewed the policy file. Nothing that
// the runtime decides depends on it.
func (c *Config) SignOff() string { return c.Policy + ".signed-off" }

// LoadPolicy reads the host's policy file. Where there is none at the default
// place the result is nil, which is the baseline; one that the configuration
// names must exist. Only root may be able to write it: whoever can write it
// grants tools and secrets. A file that does not read gives
// [annotations.Problems].
func LoadPolicy(path string) (*annotations.File, error) {
	data, err := ownedfile.Read(ownedfile.Kind{Name: "the policy file", Max: annotations.MaxFile}, path)
	if errors.Is(err, os.ErrNotExist) {
		if path == DefaultPolicy {
			return nil, nil
		}
		// In the system's words Docker would take it for a missing program.
		return nil, fmt.Errorf("the policy file %s, which the configuration names, is missing", path)
	}
	if err != nil {
		return nil, err
	}
	return annotations.ParseFile(path, data)
}
