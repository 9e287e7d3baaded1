package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/nanoclaw/nanoclaw/test/internal/shimlog"
)

// phase is one stretch of a start. Together they are the whole of it: each
// begins where another ends, though they are listed by whose time it is.
type phase struct {
	// part is whose time it is, what the stretch within that.
	part, what string
	// field is the shim's, where the shim measures it.
	field string
}

// phases in the order of the report. The fields are described where the shim
// writes them, in shim/task/timing.go, and in docs/performance.md.
var phases = []phase{
	{"engine", "docker, dockerd and containerd, until the shim's first instruction", beforeShim},
	{"engine", "between Create and Start: the network's set-up", "engine_ms"},
	{"engine", "the first byte of output on its way to the client", afterShim},
	{"shim", "its two processes, until Create comes", "launch_ms"},
	{"shim", "policy, share, virtiofsd, tap", "prepare_ms"},
	{"VMM start", "", "vmm_ms"},
	{"kernel", "", "kernel_ms"},
	{"agent", "", "agent_ms"},
	{"container", "crun create", "create_ms"},
	{"container", "the audit entry, joining the network", "network_ms"},
	{"container", "crun start, until the first byte of output is on the host", firstOutput},
}

// Phases that no field of the shim says alone.
const (
	beforeShim  = "before_shim_ms"
	firstOutput = "first_output_ms"
	afterShim   = "after_shim_ms"
)

// sample is one measured start; times are in milliseconds.
type sample struct {
	// Phases is by field, nil for a runtime whose shim tells nothing.
	Phases map[string]float64 `json:"phases,omitempty"`
	// KernelClock is what the guest's clock, which starts with its kernel,
	// showed at the end of the kernel phase.
	KernelClock float64 `json:"guestUptime,omitempty"`
	// Total is the time to the first byte of output, Whole that to the end of
	// the command.
	Total float64 `json:"total"`
	Whole float64 `json:"whole"`
}

// timed is what the client alone shows of a start.
func timed(r run) (sample, error) {
	if r.output.IsZero() {
		return sample{}, fmt.Errorf("container %s wrote nothing", r.id)
	}
	return sample{Total: ms(r.output.Sub(r.began)), Whole: ms(r.ended.Sub(r.began))}, nil
}

// split adds to a sample what the shim said of the same start.
func (s *sample) split(r run, started, closed shimlog.Entry) error {
	began, err := started.Time("began")
	if err != nil {
		return err
	}
	s.Phases = map[string]float64{beforeShim: ms(began.Sub(r.began))}
	shims := s.Phases[beforeShim]
	for _, p := range phases {
		if p.field == beforeShim || p.field == firstOutput || p.field == afterShim {
			continue
		}
		if s.Phases[p.field], err = started.Number(p.field); err != nil {
			return err
		}
		shims += s.Phases[p.field]
	}
	if s.KernelClock, err = started.Number("guest_uptime_ms"); err != nil {
		return err
	}
	// It is counted from Start, which is where joining the network begins.
	output, err := closed.Number("output_ms")
	if err != nil {
		return err
	}
	s.Phases[firstOutput] = output - s.Phases["network_ms"]
	s.Phases[afterShim] = s.Total - shims - s.Phases[firstOutput]
	for _, p := range phases {
		// Two processes that read one clock may disagree by the little that
		// writing times down loses.
		if s.Phases[p.field] < -0.1 {
			return fmt.Errorf("container %s: the phase %q of %q took %.3f ms: the clock was set meanwhile, or is not the shim's", r.id, p.field, p.part, s.Phases[p.field])
		}
	}
	return nil
}

// parts are the phases' parts, each once.
func parts() []string {
	var list []string
	for _, p := range phases {
		if !slices.Contains(list, p.part) {
			list = append(list, p.part)
		}
	}
	return list
}

// part sums up a part's phases.
func (s sample) part(name string) float64 {
	sum := 0.0
	for _, p := range phases {
		if p.part == name {
			sum += s.Phases[p.field]
		}
	}
	return sum
}

// ms is a duration in milliseconds, to the microsecond.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
