// Package inventory is what an operator asks a host first: which containers run
// in virtual machines, as which agents, and which of them tried what they may not.
//
// It reads what shims leave on the host (run directories, cgroups, the audit log)
// and asks no shim and no guest, so that it answers whatever state those are in.
package inventory

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/nanoclaw/nanoclaw/shim/audit"
	"github.com/nanoclaw/nanoclaw/shim/config"
	"github.com/nanoclaw/nanoclaw/shim/sandbox"
	"github.com/nanoclaw/nanoclaw/shim/vmcgroup"
)

// Container is a container that runs in a VM.
type Container struct {
	sandbox.Info
	// MemoryUsed is what the VM holds of the host's memory, in bytes, for all that
	// are in it; negative where that is not known: the VM is just being started, or
	// has ended.
	MemoryUsed int64 `json:"memory_used"`
	// Violations is how often it tried, by the audit log, what it may not;
	// negative where there is no log.
	Violations int `json:"violations"`
}

// List returns the containers of a host, oldest first. What could be found is
// returned beside the error about the rest.
func List(cfg config.Config) ([]Container, error) {
	infos, err := sandbox.List(cfg.RunDir)
	errs := []error{err}
	if len(infos) == 0 {
		return nil, err
	}
	slices.SortFunc(infos, func(a, b sandbox.Info) int {
		return cmp.Or(a.Began.Compare(b.Began), cmp.Compare(a.ID, b.ID))
	})
	violations, err := audit.Violations(cfg.Audit.Dir, infos[0].Began)
	if err != nil {
		errs = append(errs, err)
	}
	all := make([]Container, 0, len(infos))
	for _, info := range infos {
		c := Container{Info: info, MemoryUsed: -1, Violations: -1}
		if violations != nil {
			c.Violations = violations[info.ID]
		}
		switch used, err := vmcgroup.Usage(info.Cgroup); {
		case err == nil:
			c.MemoryUsed = used
		case !errors.Is(err, fs.ErrNotExist):
			errs = append(errs, err)
		}
		all = append(all, c)
	}
	return all, errors.Join(errs...)
}

// Write writes the containers as a table.
func Write(w io.Writer, containers []Container, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	_, _ = fmt.Fprintln(t, "CONTAINER\tAGENT\tMODE\tVM\tMEMORY\tUP\tVIOLATIONS") // Flush has the error
	for _, c := range containers {
		// What a VM has is told once.
		vm, memory := "that of "+short(c.Sandbox), "-"
		if c.Sandbox == "" {
			vm = c.Hypervisor
			if !c.Isolates {
				vm += ", no isolation"
			}
			vm = fmt.Sprintf("%s, %d CPU", vm, c.CPUs)
			memory = size(c.MemoryUsed) + " of " + size(c.Memory)
		}
		violations := "?"
		if c.Violations >= 0 {
			violations = fmt.Sprint(c.Violations)
		}
		agent := c.Agent
		if agent == "" {
			agent = "-"
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", // Flush has the error
			short(c.ID), agent, c.Mode, vm, memory, now.Sub(c.Began).Round(time.Second), violations)
	}
	return t.Flush()
}

// short is an id as Docker prints it.
func short(id string) string { return id[:min(len(id), 12)] }

// size writes bytes as people do.
func size(n int64) string {
	switch {
	case n < 0:
		return "?"
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%d MiB", n>>20)
}
