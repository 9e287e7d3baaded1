package ocispec

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// always are the namespaces that every container has of its own, also one that
// was asked to share the host's: the VM's own hold the agent.
var always = []specs.LinuxNamespaceType{
	specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace, specs.CgroupNamespace,
}

func fitLinux(l *specs.Linux, g Guest, dropped *Dropped) error {
	fitNamespaces(l, g, dropped)
	l.CgroupsPath = g.CgroupPath
	if l.MountLabel != "" {
		dropped.add("linux.mountLabel %q: SELinux is the host's", l.MountLabel)
		l.MountLabel = ""
	}
	if l.IntelRdt != nil {
		dropped.add("linux.intelRdt: the VM has no such controls")
		l.IntelRdt = nil
	}
	if len(l.NetDevices) > 0 {
		return invalid("linux.netDevices names devices of the host")
	}
	if s := l.Seccomp; s != nil && (s.ListenerPath != "" || s.ListenerMetadata != "") {
		return invalid("linux.seccomp.listenerPath is a socket of the host")
	}
	if l.Resources != nil {
		fitResources(l.Resources, g.Swap, dropped)
	}
	return nil
}

func fitNamespaces(l *specs.Linux, g Guest, dropped *Dropped) {
	kept := []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: g.NetworkNamespace}}
	given := make(map[specs.LinuxNamespaceType]bool)
	for _, ns := range l.Namespaces {
		if given[ns.Type] {
			continue
		}
		given[ns.Type] = true
		if ns.Type == specs.NetworkNamespace {
			continue
		}
		if ns.Path == "" {
			kept = append(kept, ns)
			continue
		}
		dropped.add("linux.namespaces: the %s namespace %q is the host's", ns.Type, ns.Path)
		given[ns.Type] = false
	}
	for _, t := range always {
		if !given[t] {
			kept = append(kept, specs.LinuxNamespace{Type: t})
		}
	}
	if !given[specs.UserNamespace] {
		l.UIDMappings, l.GIDMappings = nil, nil
	}
	if !given[specs.TimeNamespace] {
		l.TimeOffsets = nil
	}
	l.Namespaces = kept
}

// Resources reads raw, an OCI resources object, and makes it fit for the guest.
func Resources(raw []byte, swap bool) (*specs.LinuxResources, Dropped, error) {
	var r specs.LinuxResources
	if err := decode(raw, &r); err != nil {
		return nil, nil, fmt.Errorf("resources: %w", err)
	}
	var dropped Dropped
	fitResources(&r, swap, &dropped)
	return &r, dropped, nil
}

func fitResources(r *specs.LinuxResources, swap bool, dropped *Dropped) {
	if m := r.Memory; m != nil {
		fitMemory(m, swap, dropped)
	}
	if c := r.CPU; c != nil {
		if c.Cpus != "" || c.Mems != "" {
			dropped.add("linux.resources.cpu cpus %q, mems %q: they number the host's, where the VM is bound to them", c.Cpus, c.Mems)
			c.Cpus, c.Mems = "", ""
		}
		if c.RealtimePeriod != nil || c.RealtimeRuntime != nil {
			if value(c.RealtimePeriod) != 0 || value(c.RealtimeRuntime) != 0 {
				dropped.add("linux.resources.cpu realtime period and runtime: not in cgroup v2")
			}
			c.RealtimePeriod, c.RealtimeRuntime = nil, nil
		}
	}
	if b := r.BlockIO; b != nil {
		if len(b.WeightDevice)+len(b.ThrottleReadBpsDevice)+len(b.ThrottleWriteBpsDevice)+
			len(b.ThrottleReadIOPSDevice)+len(b.ThrottleWriteIOPSDevice) > 0 {
			dropped.add("linux.resources.blockIO devices: they number the host's")
		}
		if value(b.LeafWeight) != 0 || value(b.Weight) != 0 {
			dropped.add("linux.resources.blockIO weight: the container's files are on a share, which has no I/O weight")
		}
		r.BlockIO = nil
	}
	if n := r.Network; n != nil {
		if value(n.ClassID) != 0 || len(n.Priorities) > 0 {
			dropped.add("linux.resources.network: not in cgroup v2")
		}
		r.Network = nil
	}
	if len(r.Rdma) > 0 {
		dropped.add("linux.resources.rdma: the VM has no such device")
		r.Rdma = nil
	}
	if len(r.HugepageLimits) > 0 {
		dropped.add("linux.resources.hugepageLimits: the VM has no reserved huge pages")
		r.HugepageLimits = nil
	}
}

func fitMemory(m *specs.LinuxMemory, swap bool, dropped *Dropped) {
	//nolint:staticcheck // deprecated fields are still sent and must be dropped by name
	if value(m.Kernel) != 0 || value(m.KernelTCP) != 0 {
		dropped.add("linux.resources.memory kernel, kernelTCP: not in cgroup v2, the memory limit includes both")
	}
	m.Kernel, m.KernelTCP = nil, nil //nolint:staticcheck // see above
	if m.Swappiness != nil {
		dropped.add("linux.resources.memory.swappiness: not in cgroup v2")
		m.Swappiness = nil
	}
	if value(m.DisableOOMKiller) {
		dropped.add("linux.resources.memory.disableOOMKiller: not in cgroup v2")
	}
	m.DisableOOMKiller = nil
	if m.Swap != nil && !swap {
		// Not worth a line when it is derived from the limit, as Docker does.
		if value(m.Swap) > 0 && value(m.Swap) > 2*value(m.Limit) {
			dropped.add("linux.resources.memory.swap: the VM does not swap")
		}
		m.Swap = nil
	}
}

// value returns what p points to, or the zero value.
func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
