package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nanoclaw/nanoclaw/annotations"
)

// policyPrefix and policySuffix are around a container's id in the name of the
// file, in the run directory of its VM, that holds its policy. It is for the
// operator: nothing is decided by what the file says.
const (
	policyPrefix = "policy-"
	policySuffix = ".json"
)

// maxPolicyFile bounds what is read of one. The host's form of a policy is a
// little larger than the guest's.
const maxPolicyFile = 2 * annotations.MaxPolicy

func (d rundir) policy(id string) string {
	return filepath.Join(string(d), policyPrefix+id+policySuffix)
}

// NotePolicy writes down the policy of a container in the sandbox, as long as it
// is there.
func (s *Sandbox) NotePolicy(id string, p *annotations.Policy) error { return s.dir.notePolicy(id, p) }

func (d rundir) notePolicy(id string, p *annotations.Policy) error {
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode the policy of %s: %w", id, err)
	}
	if err := os.WriteFile(d.policy(id), data, 0o600); err != nil {
		return fmt.Errorf("write down the policy: %w", err)
	}
	return nil
}

// forgetPolicy removes what NotePolicy wrote, if it did.
func (d rundir) forgetPolicy(id string) error {
	if err := os.Remove(d.policy(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the note of the policy: %w", err)
	}
	return nil
}

// Policy returns the policy of the running container whose id begins so, of
// those whose run directories are below base.
func Policy(base, id string) (*annotations.Policy, error) {
	if id == "" || strings.ContainsAny(id, `/*?[\`) {
		return nil, fmt.Errorf("%q is no container's id", id)
	}
	files, err := filepath.Glob(filepath.Join(base, "*", policyPrefix+id+"*"+policySuffix))
	if err != nil {
		return nil, fmt.Errorf("look for the container %s: %w", id, err)
	}
	switch len(files) {
	case 0:
		return nil, fmt.Errorf("no container whose id begins with %s runs in a micro-VM of this host; nanoclaw ps lists them", id)
	case 1:
		return readPolicy(files[0])
	}
	return nil, fmt.Errorf("the ids of %d containers begin with %s; write more of it", len(files), id)
}

func readPolicy(file string) (*annotations.Policy, error) {
	var p annotations.Policy
	if err := readJSON("the policy", file, maxPolicyFile, &p); err != nil {
		return nil, err
	}
	return &p, nil
}
