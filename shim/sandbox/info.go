package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
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
	// Sandbox is the id of the container whose VM it is in, where that is another
	// one: it has joined that one's network.
	Sandbox string `json:"sandbox,omitempty"`
	// Address is where its shim serves.
	Address string `json:"address,omitempty"`
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

// List returns the containers of a host, by the run directories of their VMs
// below base. What cannot be read does not hide the others: its error is returned
// beside them.
func List(base string) ([]Info, error) {
	vms, err := list(base)
	errs := []error{err}
	var all []Info
	for _, vm := range vms {
		in, err := newRundir(base, vm.Namespace, vm.ID).containers(vm)
		all, errs = append(all, in...), append(errs, err)
	}
	return all, errors.Join(errs...)
}

// containers are those in a VM, by what is noted of their policies. The first one
// may be gone while others that joined it go on.
func (d rundir) containers(vm Info) ([]Info, error) {
	if !vm.Shared {
		return []Info{vm}, nil
	}
	files, err := filepath.Glob(d.policy("*"))
	if err != nil {
		return []Info{vm}, fmt.Errorf("look for the containers of the VM of %s: %w", vm.ID, err)
	}
	var all []Info
	var errs []error
	for _, file := range files {
		one := vm
		one.ID = strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), policyPrefix), policySuffix)
		if one.ID != vm.ID {
			if err := one.joined(vm.ID, file); err != nil {
				errs = append(errs, err)
			}
		}
		all = append(all, one)
	}
	if len(all) == 0 {
		// It is being removed, or its first container is not made yet.
		all = []Info{vm}
	}
	return all, errors.Join(errs...)
}

// joined makes the record of a VM that of a container that is in it, of which
// file is the policy.
func (i *Info) joined(owner, file string) error {
	i.Sandbox = owner
	i.Agent, i.Policy, i.Mode = "", "", ""
	st, err := os.Stat(file)
	if err != nil {
		return fmt.Errorf("look at the container %s: %w", i.ID, err)
	}
	i.Began = st.ModTime()
	p, err := readPolicy(file)
	if err != nil {
		return fmt.Errorf("look at the container %s: %w", i.ID, err)
	}
	i.Agent, i.Policy, i.Mode = p.Agent, p.Digest(), p.Mode
	return nil
}

// list returns the VMs of a host.
func list(base string) ([]Info, error) {
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
	all, _ := list(base)
	for _, info := range all {
		if info.Namespace == namespace && info.Network == wanted {
			return info.ID, nil
		}
	}
	return "", nil
}
