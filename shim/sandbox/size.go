package sandbox

import (
	"math"

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
// several has been seen to crash there. It is never more than the host has: a
// ceiling above that limits nothing, and CPUs that wait for each other take long
// to start.
func cpusFor(spec *specs.Spec, byDefault int, isolates bool, host int) int {
	n := byDefault
	if n == 0 {
		n = 1
		if isolates {
			n = host
		}
	}
	if r := resources(spec); r != nil && r.CPU != nil && r.CPU.Quota != nil && *r.CPU.Quota > 0 {
		n = min(cpusOf(r.CPU), host)
	}
	return max(1, min(n, maxCPUs))
}

// cpusOf returns how many CPUs a quota, which is above 0, is.
func cpusOf(c *specs.LinuxCPU) int {
	p := period(c)
	return int((*c.Quota + p - 1) / p)
}

// period is in microseconds.
func period(c *specs.LinuxCPU) int64 {
	if c.Period != nil && *c.Period > 0 {
		return int64(*c.Period) //nolint:gosec // the kernel takes a second at most
	}
	return 100_000 // the kernel's default
}

func resources(spec *specs.Spec) *specs.LinuxResources {
	if spec.Linux == nil {
		return nil
	}
	return spec.Linux.Resources
}
