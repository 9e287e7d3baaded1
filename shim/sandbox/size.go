package sandbox

import (
	"fmt"
	"math"
	"runtime"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	// guestReserve is what the guest's kernel, the agent and the page tables
	// need beside the container's own memory, in bytes (docs/guest.md has the
	// measurement).
	guestReserve = 128 << 20
	// memoryStep is the granularity of a VM's memory.
	memoryStep = 2 << 20
	// maxCPUs is what the guest's kernel is built for.
	maxCPUs = 64
)

// memoryFor returns the VM's memory in bytes: the container's limit and what
// the guest itself needs, or byDefault without a limit. It is never more than the
// host has: a guest needs memory, and time, to keep account of its memory, and a
// limit above all that there is limits nothing under runc either.
func memoryFor(spec *specs.Spec, byDefault, host int64) int64 {
	size := byDefault
	if r := resources(spec); r != nil && r.Memory != nil && r.Memory.Limit != nil && *r.Memory.Limit > 0 {
		size = max(*r.Memory.Limit, *r.Memory.Limit+guestReserve)
	}
	return (min(size, host) + memoryStep - 1) / memoryStep * memoryStep
}

// hostMemory is how much memory this machine has, in bytes.
func hostMemory() int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return math.MaxInt64 - memoryStep
	}
	return int64(info.Totalram) * int64(info.Unit) //nolint:gosec // no machine has that much
}

// cpusFor returns the number of virtual CPUs: enough for the container's quota,
// or byDefault without one, where 0 means all of the host's, or one where the
// CPUs are emulated: each costs the same host thread's time, and a guest with
// several has been seen to crash there.
func cpusFor(spec *specs.Spec, byDefault int, isolates bool) int {
	n := byDefault
	if n == 0 {
		n = 1
		if isolates {
			n = runtime.NumCPU()
		}
	}
	if r := resources(spec); r != nil && r.CPU != nil && r.CPU.Quota != nil && *r.CPU.Quota > 0 {
		period := int64(100_000) // the kernel's default, microseconds
		if p := r.CPU.Period; p != nil && *p > 0 {
			period = int64(*p)
		}
		n = int((*r.CPU.Quota + period - 1) / period)
	}
	return max(1, min(n, maxCPUs))
}

func resources(spec *specs.Spec) *specs.LinuxResources {
	if spec.Linux == nil {
		return nil
	}
	return spec.Linux.Resources
}

// Fits returns an error for limits that are above what the VM was given when it
// started: they would have no effect.
func (i *Info) Fits(r *specs.LinuxResources) error {
	if m := r.Memory; m != nil && m.Limit != nil && *m.Limit > i.Memory-guestReserve {
		return fmt.Errorf("a memory limit of %d MiB: the virtual machine was started with memory for one of %d MiB and cannot grow; start the container anew with that limit: %w",
			*m.Limit>>20, (i.Memory-guestReserve)>>20, errdefs.ErrInvalidArgument)
	}
	if c := r.CPU; c != nil && c.Quota != nil && c.Period != nil && *c.Quota > int64(i.CPUs)*int64(*c.Period) {
		return fmt.Errorf("%.2f CPUs: the virtual machine was started with %d and cannot get more; start the container anew with that limit: %w",
			float64(*c.Quota)/float64(*c.Period), i.CPUs, errdefs.ErrInvalidArgument)
	}
	return nil
}
