package config

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/annotations"
)

// DefaultPolicy is the policy file of a host whose configuration names no other.
const DefaultPolicy = "/etc/nanoclaw/policy.yaml"

// Enforced is what this version's shim and guest enforce besides mounts and
// limits. A container whose policy needs more is refused. Each part that
// enforces something adds its capability here, and nowhere else.
var Enforced = annotations.Enforced{annotations.CapExec, annotations.CapReadonlyTools, annotations.CapHide, annotations.CapLifetime, annotations.CapNetwork, annotations.CapAudit}

// Private are the folders and files of this host that no container may be given:
// who can write there can rewrite what containers may do, or did.
func (c *Config) Private() []string {
	return []string{c.Audit.Dir, c.RunDir, c.Policy, c.SignOff()}
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
	data, err := readOwned(path)
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

// readOwned reads a regular file that belongs to root, or to whom this process
// runs as, and that nobody else can write. All is judged on the open file.
func readOwned(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open the policy file: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	f := os.NewFile(uintptr(fd), path)
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("examine the policy file %s: %w", path, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, fmt.Errorf("the policy file %s is not a regular file", path)
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return nil, fmt.Errorf("the policy file %s belongs to user %d and must belong to root (chown root %s)", path, st.Uid, path)
	case st.Mode&0o022 != 0:
		return nil, fmt.Errorf("the policy file %s can be written by others than its owner (chmod go-w %s)", path, path)
	}
	data, err := io.ReadAll(io.LimitReader(f, annotations.MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read the policy file %s: %w", path, err)
	}
	if len(data) > annotations.MaxFile {
		return nil, fmt.Errorf("the policy file %s is over %d bytes", path, annotations.MaxFile)
	}
	return data, nil
}
