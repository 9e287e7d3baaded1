package annotations

import (
	"fmt"
	"maps"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Apply returns the spec as the policy has it, for the guest: limits lowered,
// forced read-only mounts marked (the host's own read-only mount is what holds;
// this makes the container see it), the host's devices of --privileged gone,
// namespace paths, which name things of the host, blank, and our annotations
// removed. The given spec is not changed.
func (p *Policy) Apply(spec *specs.Spec) *specs.Spec {
	out := *spec
	out.Mounts = slices.Clone(spec.Mounts)
	for i, m := range out.Mounts {
		if IsBind(m) && p.Held().ReadOnly(m.Destination) {
			m.Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "rw" || o == "rrw" })
			out.Mounts[i].Options = append(m.Options, "ro")
		}
	}
	out.Annotations = maps.Clone(spec.Annotations)
	maps.DeleteFunc(out.Annotations, func(k, _ string) bool { return Ours(k) })

	linux := *spec.Linux
	if p.Privileged {
		linux.Devices = nil
	}
	linux.Namespaces = slices.Clone(spec.Linux.Namespaces)
	for i := range linux.Namespaces {
		linux.Namespaces[i].Path = ""
	}
	if p.Limits != (Limits{}) {
		resources := specs.LinuxResources{}
		if spec.Linux.Resources != nil {
			resources = copyResources(spec.Linux.Resources)
		}
		p.NarrowResources(&resources)
		linux.Resources = &resources
	}
	out.Linux = &linux
	return &out
}

// LeftOut names the parts of spec that Apply leaves out, or that are not as spec
// has them, and that a person could miss, each with the reason.
func (p *Policy) LeftOut(spec *specs.Spec) []string {
	var left []string
	if p.Privileged && len(spec.Linux.Devices) > 0 {
		left = append(left, fmt.Sprintf("linux.devices: %d devices of the host's, the first of them %s, stay there; --privileged gives the VM's own",
			len(spec.Linux.Devices), quote(spec.Linux.Devices[0].Path)))
	}
	for _, n := range namespaceRules {
		there := slices.ContainsFunc(spec.Linux.Namespaces, func(have specs.LinuxNamespace) bool { return have.Type == n.kind })
		if n.required && !there {
			left = append(left, fmt.Sprintf("linux.namespaces: without a %s namespace it would be the host's; the container has one of its own in the VM", n.kind))
		}
	}
	return left
}

// copyResources copies what NarrowResources changes.
func copyResources(r *specs.LinuxResources) specs.LinuxResources {
	c := *r
	if r.Memory != nil {
		m := *r.Memory
		c.Memory = &m
	}
	if r.CPU != nil {
		cpu := *r.CPU
		c.CPU = &cpu
	}
	if r.Pids != nil {
		pids := *r.Pids
		c.Pids = &pids
	}
	return c
}
