// Package vmcgroup keeps the processes of one VM in a cgroup of the host's:
// the one that the engine named for the container.
//
// It exists so that all of a VM can be found and killed even when the shim is
// gone, and so that a VM cannot take more of the host's memory than was meant
// for it. The container's own limits are set inside the guest; this cgroup
// holds the VMM and its helpers.
package vmcgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const mountpoint = "/sys/fs/cgroup"

// overhead is what the VMM, the share's daemon and the page cache that they
// cause may use beside the guest's memory, in bytes. The processes themselves
// use some 30 MiB; the rest is cache, which is reclaimed before the limit kills.
const overhead = 512 << 20

// pause is between looks at a cgroup whose processes are to go.
const pause = 10 * time.Millisecond

// Cgroup is a VM's cgroup.
type Cgroup struct {
	path string
	v1   cgroup1.Cgroup
	v2   *cgroup2.Manager
	// unforked is what [Cgroup.refusedForks] was at the beginning.
	unforked int
}

// Path turns an OCI cgroups path into the path of a cgroup below the mount
// point. systemd's notation "slice:prefix:name" names a unit of systemd's own,
// which is not ours to make: such a VM goes below /nanoclaw.
func Path(oci, id string) string {
	if parts := strings.Split(oci, ":"); len(parts) == 3 {
		return filepath.Join("/nanoclaw", filepath.Base("/"+parts[2]))
	}
	if oci == "" {
		return filepath.Join("/nanoclaw", id)
	}
	return filepath.Join("/", oci)
}

// New makes the cgroup at path, below the mount point, with a memory limit that
// fits a guest of guestMemory bytes.
func New(path string, guestMemory int64) (*Cgroup, error) {
	limit := guestMemory + overhead
	c := &Cgroup{path: path}
	var err error
	if cgroups.Mode() == cgroups.Unified {
		c.v2, err = cgroup2.NewManager(mountpoint, path, &cgroup2.Resources{Memory: &cgroup2.Memory{Max: &limit}})
	} else {
		c.v1, err = cgroup1.New(cgroup1.StaticPath(path), &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}})
	}
	if err != nil {
		return nil, fmt.Errorf("make cgroup %s: %w", path, err)
	}
	c.unforked = c.refusedForks()
	return c, nil
}

// Fit changes the memory limit to that of a guest of guestMemory bytes.
func (c *Cgroup) Fit(guestMemory int64) error {
	limit := guestMemory + overhead
	var err error
	if c.v2 != nil {
		err = c.v2.Update(&cgroup2.Resources{Memory: &cgroup2.Memory{Max: &limit}})
	} else {
		err = c.v1.Update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}})
	}
	if err != nil {
		return fmt.Errorf("raise the memory limit of cgroup %s: %w", c.path, err)
	}
	return nil
}

// load opens an existing cgroup.
func load(path string) (*Cgroup, error) {
	c := &Cgroup{path: path}
	var err error
	if cgroups.Mode() == cgroups.Unified {
		if _, err = os.Stat(filepath.Join(mountpoint, path)); err == nil {
			c.v2, err = cgroup2.Load(path)
		}
	} else {
		c.v1, err = cgroup1.Load(cgroup1.StaticPath(path))
	}
	return c, err
}

// Path is the cgroup's path below the mount point.
func (c *Cgroup) Path() string { return c.path }

// Join takes a process into the cgroup.
func (c *Cgroup) Join(pid int) error {
	if c.v2 != nil {
		return c.v2.AddProc(uint64(pid))
	}
	return c.v1.AddProc(uint64(pid))
}

func (c *Cgroup) pids() ([]int, error) {
	var pids []int
	if c.v2 != nil {
		procs, err := c.v2.Procs(true)
		for _, p := range procs {
			pids = append(pids, int(p))
		}
		return pids, err
	}
	// One of the hierarchies that a process joins by AddProc.
	procs, err := c.v1.Processes(cgroup1.Memory, true)
	for _, p := range procs {
		pids = append(pids, p.Pid)
	}
	return pids, err
}

func (c *Cgroup) remove() error {
	if c.v2 != nil {
		return c.v2.Delete()
	}
	err := c.v1.Delete()
	if errors.Is(err, cgroup1.ErrCgroupDeleted) {
		return nil
	}
	return err
}

// Remove kills what is left in the cgroup and removes it, waiting at most
// patience for processes to go.
func (c *Cgroup) Remove(patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for ; ; time.Sleep(pause) {
		pids, err := c.pids()
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("list cgroup %s: %w", c.path, err)
		}
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill process %d of cgroup %s: %w", pid, c.path, err)
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cgroup %s still holds processes %v after they were killed", c.path, pids)
		}
	}
	if err := until(deadline, c.remove); err != nil {
		return fmt.Errorf("remove cgroup %s: %w", c.path, err)
	}
	return nil
}

// until removes, again and again until the deadline. A process that is being ended
// is no longer listed but holds its cgroup until its memory is freed, which takes
// seconds for a large VM.
func until(deadline time.Time, remove func() error) error {
	for ; ; time.Sleep(pause) {
		err := remove()
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
	}
}

// Destroy is Remove for a cgroup that some other process made. One that is not
// there is fine.
func Destroy(path string, patience time.Duration) error {
	c, err := load(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, cgroup1.ErrCgroupDeleted) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open cgroup %s: %w", path, err)
	}
	return c.Remove(patience)
}
