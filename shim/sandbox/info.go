package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/shim/network"
)

// maxInfo bounds the record of a VM, in bytes.
const maxInfo = 64 << 10

// Info is what the run directory says of a sandbox: what "delete" must know when
// the shim is gone, and what an operator wants to know of one that runs.
type Info struct {
	// ID and Namespace are containerd's.
	ID        string `json:"id"`
	Namespace string `json:"namespace,omitempty"`
	// Cgroup is the VM's, below the mount point.
	Cgroup string `json:"cgroup"`
	// Shared is set once another container has joined: the VM may outlive the
	// first one.
	Shared bool `json:"shared,omitempty"`
	// Network is the network namespace's identity: by it a container that joins
	// another one's network finds the VM.
	Network network.Identity `json:"network"`
	// Agent is the agent that the container runs as, Policy its policy's digest.
	Agent  string           `json:"agent,omitempty"`
	Policy string           `json:"policy,omitempty"`
	Mode   annotations.Mode `json:"mode,omitempty"`
	// Hypervisor runs the VM; Isolates is not set where it emulates one.
	Hypervisor string    `json:"hypervisor,omitempty"`
	Isolates   bool      `json:"isolates"`
	CPUs       int       `json:"cpus,omitempty"`
	Memory     int64     `json:"memory,omitempty"`
	Began      time.Time `json:"began"`
}

// info reads the record; nil where there is none.
func (d rundir) info() (*Info, error) {
	var info Info
	switch err := readJSON("the VM's record", d.record(), maxInfo, &info); {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &info, nil
}

// readJSON reads a file of ours, of at most limit bytes, into v. what is in it
// is for the error.
func readJSON(what, file string, limit int64, v any) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("read %s: %w", what, err)
	}
	defer func() { _ = f.Close() }() // it was read from only
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return fmt.Errorf("read %s: %w", what, err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s %s: %w", what, file, err)
	}
	return nil
}

// List returns the sandboxes of a host, by their run directories below base. One
// that cannot be read does not hide the others: its error is returned beside them.
func List(base string) ([]Info, error) {
	entries, err := os.ReadDir(base)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the run directory: %w", err)
	}
	var all []Info
	var errs []error
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		// A folder without a record is being made or removed.
		info, err := rundir(filepath.Join(base, e.Name())).info()
		if err != nil {
			errs = append(errs, err)
		} else if info != nil {
			all = append(all, *info)
		}
	}
	return all, errors.Join(errs...)
}

// Owner returns the id of the sandbox, among those of a containerd namespace,
// whose network namespace is the one at path. It is empty where there is none.
func Owner(base, namespace, path string) (string, error) {
	wanted, err := network.Identify(path)
	if err != nil {
		return "", err
	}
	// A record that cannot be read is not that of a VM that runs.
	all, _ := List(base)
	for _, info := range all {
		if info.Namespace == namespace && info.Network == wanted {
			return info.ID, nil
		}
	}
	return "", nil
}
