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
		return invalid("linux.seccomp.listenerPath and linux.seccomp.listenerMetadata are about a socket of the host")
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
			dropped.add("linux.namespaces: the %s namespace is there twice", ns.Type)
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
		if len(l.UIDMappings) > 0 {
			dropped.add("linux.uidMappings: there is no user namespace")
		}
		if len(l.GIDMappings) > 0 {
			dropped.add("linux.gidMappings: there is no user namespace")
		}
		l.UIDMappings, l.GIDMappings = nil, nil
	}
	if !given[specs.TimeNamespace] {
		if len(l.TimeOffsets) > 0 {
			dropped.add("linux.timeOffsets: there is no time namespace")
		}
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
		fitCPU(c, dropped)
	}
	if b := r.BlockIO; b != nil {
		dropBlockIO(b, dropped)
		r.BlockIO = nil
	}
	if n := r.Network; n != nil {
		if value(n.ClassID) != 0 {
			dropped.add("linux.resources.network.classID: not in cgroup v2")
		}
		if len(n.Priorities) > 0 {
			dropped.add("linux.resources.network.priorities: not in cgroup v2")
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

func fitCPU(c *specs.LinuxCPU, dropped *Dropped) {
	for name, list := range map[string]*string{"cpus": &c.Cpus, "mems": &c.Mems} {
		if *list != "" {
			dropped.add("linux.resources.cpu.%s %q: they are the host's, whose numbers mean others here", name, *list)
			*list = ""
		}
	}
	if value(c.RealtimePeriod) != 0 {
		dropped.add("linux.resources.cpu.realtimePeriod: not in cgroup v2")
	}
	if value(c.RealtimeRuntime) != 0 {
		dropped.add("linux.resources.cpu.realtimeRuntime: not in cgroup v2")
	}
	c.RealtimePeriod, c.RealtimeRuntime = nil, nil
}

func dropBlockIO(b *specs.LinuxBlockIO, dropped *Dropped) {
	for name, n := range map[string]int{
		"weightDevice":            len(b.WeightDevice),
		"throttleReadBpsDevice":   len(b.ThrottleReadBpsDevice),
		"throttleWriteBpsDevice":  len(b.ThrottleWriteBpsDevice),
		"throttleReadIOPSDevice":  len(b.ThrottleReadIOPSDevice),
		"throttleWriteIOPSDevice": len(b.ThrottleWriteIOPSDevice),
	} {
		if n > 0 {
			dropped.add("linux.resources.blockIO.%s: it is about devices of the host", name)
		}
	}
	for name, weight := range map[string]*uint16{"weight": b.Weight, "leafWeight": b.LeafWeight} {
		if value(weight) != 0 {
			dropped.add("linux.resources.blockIO.%s: the container's files are on a share, which has no I/O weight", name)
		}
	}
}

func fitMemory(m *specs.LinuxMemory, swap bool, dropped *Dropped) {
	//nolint:staticcheck // deprecated fields are still sent and must be dropped by name
	for name, limit := range map[string]*int64{"kernel": m.Kernel, "kernelTCP": m.KernelTCP} {
		if value(limit) != 0 {
			dropped.add("linux.resources.memory.%s: not in cgroup v2, where the memory limit includes it", name)
		}
	}
	m.Kernel, m.KernelTCP = nil, nil //nolint:staticcheck // see above
	if m.UseHierarchy != nil {
		dropped.add("linux.resources.memory.useHierarchy: in cgroup v2 it is always so")
		m.UseHierarchy = nil
	}
	if m.Swappiness != nil {
		dropped.add("linux.resources.memory.swappiness: not in cgroup v2")
		m.Swappiness = nil
	}
	if value(m.DisableOOMKiller) {
		dropped.add("linux.resources.memory.disableOOMKiller: not in cgroup v2")
	}
	m.DisableOOMKiller = nil
	if m.Swap != nil && !swap {
		// As much as of memory alone is none, which holds; twice as much is what
		// Docker makes of a limit when nobody asked.
		if n := value(m.Swap); n != 0 && n != value(m.Limit) && n != 2*value(m.Limit) {
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
