package sandbox

import (
	"context"
	"fmt"
	"runtime"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nanoclaw/nanoclaw/hypervisor"
)

// room returns how large a VM of that size may become: the host's memory and,
// unless they are emulated (cpusFor says why), all of its CPUs.
func room(size hypervisor.Size, isolates bool) hypervisor.Size {
	most := hypervisor.Size{CPUs: size.CPUs, Memory: max(size.Memory, hostMemory()/memoryStep*memoryStep)}
	if isolates {
		most.CPUs = min(max(size.CPUs, runtime.NumCPU()), maxCPUs)
	}
	return most
}

// grown returns the size of a VM for new limits of a container in it. It has the
// size now, was started with the memory first, and has room for most. It never
// becomes smaller: the limits themselves are kept in the guest.
func grown(now, most hypervisor.Size, first int64, r *specs.LinuxResources) (hypervisor.Size, error) {
	to := now
	if m := r.Memory; m != nil && m.Limit != nil && *m.Limit > now.Memory-guestReserve {
		room := first + (most.Memory-first)/hypervisor.GrowthStep*hypervisor.GrowthStep
		if *m.Limit > room-guestReserve {
			return now, fmt.Errorf("a memory limit of %d MiB: the virtual machine can have memory for one of %d MiB at most, as the host has no more: %w",
				*m.Limit>>20, (room-guestReserve)>>20, errdefs.ErrInvalidArgument)
		}
		more := *m.Limit + guestReserve - first
		to.Memory = first + (more+hypervisor.GrowthStep-1)/hypervisor.GrowthStep*hypervisor.GrowthStep
	}
	if c := r.CPU; c != nil && c.Quota != nil && *c.Quota > 0 {
		wanted := cpusOf(c)
		if wanted > most.CPUs {
			return now, fmt.Errorf("%.2f CPUs: the virtual machine can have %d at most, as the host has no more, or emulates it: %w",
				float64(*c.Quota)/float64(period(c)), most.CPUs, errdefs.ErrInvalidArgument)
		}
		to.CPUs = max(to.CPUs, wanted)
	}
	return to, nil
}

// onHost returns limits without a quota of more CPUs than the host has: it limits
// nothing, and a ceiling may say it of all hosts.
func onHost(r *specs.LinuxResources, cpus int) *specs.LinuxResources {
	if r.CPU == nil || r.CPU.Quota == nil || *r.CPU.Quota <= 0 || cpusOf(r.CPU) <= cpus {
		return r
	}
	all, cpu := *r, *r.CPU
	quota := int64(cpus) * period(r.CPU)
	cpu.Quota, all.CPU = &quota, &cpu
	return &all
}

// Grow gives the VM what new limits of a container need, and returns the number
// of CPUs that the guest has to bring online for them; 0: none.
func (s *Sandbox) Grow(ctx context.Context, r *specs.LinuxResources) (int, error) {
	s.growing.Lock()
	defer s.growing.Unlock()
	info := s.Info()
	now := hypervisor.Size{CPUs: info.CPUs, Memory: info.Memory}
	to, err := grown(now, s.room, s.first, onHost(r, runtime.NumCPU()))
	if err != nil || to == now {
		return 0, err
	}
	if err := s.cgroup.Fit(to.Memory); err != nil {
		return 0, err
	}
	if err := s.vm.Grow(ctx, to); err != nil {
		return 0, fmt.Errorf("make the virtual machine larger, from %d CPUs and %d MiB to %d and %d MiB: %w",
			now.CPUs, now.Memory>>20, to.CPUs, to.Memory>>20, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.info.CPUs, s.info.Memory = to.CPUs, to.Memory
	if err := s.dir.write(s.info); err != nil {
		return 0, err
	}
	if to.CPUs == now.CPUs {
		return 0, nil
	}
	return to.CPUs, nil
}
