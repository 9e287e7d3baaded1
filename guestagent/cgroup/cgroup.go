// Package cgroup reads and steers the groups that crun makes for containers.
//
// The agent is in a group of its own beside them, so that no limit of a
// container reaches it. Limits themselves are crun's to set.
package cgroup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"golang.org/x/sys/unix"
)

const (
	// Root is where the hierarchy is mounted.
	Root = "/sys/fs/cgroup"
	// containers is the parent of every container's group.
	containers = "/containers"
	// agent is our own group.
	agent = "/agent"
)

// maxProcesses bounds what Processes returns, as the protocol does.
const maxProcesses = 32768

// maxDepth bounds the nesting of groups that are looked at: a container may
// make groups within its own.
const maxDepth = 32

// Group is one container's group.
type Group struct {
	// path is relative to Root.
	path string
}

// ForContainer returns the group of the container of that id.
func ForContainer(id string) Group { return Group{path: containers + "/" + id} }

// Path returns the group's path below the root of the hierarchy, as an OCI
// specification names it.
func (g Group) Path() string { return g.path }

// Dir is the group's folder.
func (g Group) Dir() string { return filepath.Join(Root, g.path) }

// Setup makes the agent's group and the containers' parent, with every
// controller that the kernel has, and moves the agent into its own.
func Setup() error {
	for _, dir := range []string{agent, containers} {
		if err := os.MkdirAll(Root+dir, 0o755); err != nil {
			return err
		}
	}
	if err := write(Root+agent+"/cgroup.procs", strconv.Itoa(os.Getpid())); err != nil {
		return err
	}
	for _, dir := range []string{Root, Root + containers} {
		if err := enableAll(dir); err != nil {
			return err
		}
	}
	return nil
}

func enableAll(dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(raw)) {
		if err := write(filepath.Join(dir, "cgroup.subtree_control"), "+"+name); err != nil {
			return err
		}
	}
	return nil
}

func write(path, value string) error {
	// The files exist; O_CREATE would hide that one does not.
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// LimitsSwap reports whether the kernel can limit a container's swap.
func LimitsSwap() bool {
	_, err := os.Stat(Root + containers + "/memory.swap.max")
	return err == nil
}

// KillAll kills every process of the group and of those within it.
func (g Group) KillAll() error {
	err := write(filepath.Join(g.Dir(), "cgroup.kill"), "1")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// KillContainers kills every process of every container.
func KillContainers() error { return Group{path: containers}.KillAll() }

// SignalAll sends sig to every process of the group and of those within it.
func (g Group) SignalAll(sig unix.Signal) error {
	if sig == unix.SIGKILL {
		return g.KillAll()
	}
	pids, err := g.Processes()
	if err != nil {
		return err
	}
	var errs []error
	for _, pid := range pids {
		if err := g.signal(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("signal process %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

// signal sends sig to pid if that is, now that it is held by a descriptor,
// still a process of the group.
func (g Group) signal(pid int, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if !g.contains(pid) {
		return nil
	}
	return unix.PidfdSendSignal(fd, sig, nil, 0)
}

func (g Group) contains(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(raw)) {
		if p, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return p == g.path || strings.HasPrefix(p, g.path+"/")
		}
	}
	return false
}

// Processes returns the processes of the group and of those within it.
func (g Group) Processes() ([]int, error) { return processes(g.Dir(), nil, 0) }

func processes(dir string, pids []int, depth int) ([]int, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) {
		// Gone in the meantime, or a threaded group, whose processes are listed
		// where its domain is.
		return pids, nil
	}
	if err != nil {
		return nil, err
	}
	for _, field := range bytes.Fields(raw) {
		pid, err := strconv.Atoi(string(field))
		if err == nil && pid > 0 && len(pids) < maxProcesses {
			pids = append(pids, pid)
		}
	}
	if depth == maxDepth {
		return pids, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if e.IsDir() && len(pids) < maxProcesses {
			if pids, err = processes(filepath.Join(dir, e.Name()), pids, depth+1); err != nil {
				return nil, err
			}
		}
	}
	return pids, nil
}

// frozenPoll is how often Frozen looks.
const frozenPoll = 5 * time.Millisecond

// Frozen returns once the group's processes have stopped running. The kernel
// stops them one by one after it was asked to.
func (g Group) Frozen(ctx context.Context) error {
	for {
		raw, err := os.ReadFile(filepath.Join(g.Dir(), "cgroup.events"))
		if err != nil {
			return err
		}
		if counter(raw, "frozen") == 1 {
			return nil
		}
		select {
		case <-time.After(frozenPoll):
		case <-ctx.Done():
			return fmt.Errorf("the processes have not stopped: %w", ctx.Err())
		}
	}
}

// OOMKilled reports whether the kernel has killed a process of the group for
// its memory.
func (g Group) OOMKilled() bool {
	raw, err := os.ReadFile(filepath.Join(g.Dir(), "memory.events"))
	return err == nil && counter(raw, "oom_kill") > 0
}

// counter returns the value of name in a flat-keyed file.
func counter(raw []byte, name string) uint64 {
	s := bufio.NewScanner(bytes.NewReader(raw))
	for s.Scan() {
		key, value, ok := strings.Cut(s.Text(), " ")
		if ok && key == name {
			n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

// Stat reads the group's counters.
func (g Group) Stat() (*stats.Metrics, error) {
	m, err := cgroup2.Load(g.path)
	if err != nil {
		return nil, err
	}
	return m.Stat()
}
