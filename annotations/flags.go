package annotations

import (
	"path"
	"regexp"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// namespaceRules say which flag is about which namespace, and whether the spec
// must have an entry: Docker asks for the host's namespace by leaving it out.
var namespaceRules = []struct {
	kind     specs.LinuxNamespaceType
	flag     string
	required bool
}{
	{specs.PIDNamespace, "--pid", true},
	{specs.IPCNamespace, "--ipc", true},
	{specs.UTSNamespace, "--uts", true},
	{specs.NetworkNamespace, "--network", true},
	{specs.MountNamespace, "a host mount namespace", true},
	// Where the host has the first version of cgroups, an absent entry is
	// Docker's default and no request. In the VM there is always a new one.
	{specs.CgroupNamespace, "--cgroupns", false},
	{specs.UserNamespace, "--userns", false},
	// Docker 29 adds one of its own accord, without a path.
	{specs.TimeNamespace, "a time namespace", false},
}

// hostNetwork matches names of the host's own network namespace.
var hostNetwork = regexp.MustCompile(`^(/proc/(1|self|thread-self)(/task/[0-9]+)?/ns/net|(/var)?/run/docker/netns/default)$`)

func checkFlags(p *Policy, spec *specs.Spec) error {
	p.Privileged = privileged(spec)
	if err := checkNamespaces(p, spec); err != nil {
		return err
	}
	if len(spec.Linux.Devices) > 0 && !p.Privileged {
		return refuseFlag("flags.device", "--device (the device "+quote(spec.Linux.Devices[0].Path)+")",
			"a device of the host cannot be passed into the VM by this version of nanoclaw",
			"start the container without it")
	}
	return checkHooks(spec.Hooks)
}

// bare reports whether no engine wrote the spec: every engine names a cgroup. Where
// one is written by hand, a namespace that is not in it was merely not thought of,
// and the container has the VM's own; from an engine it says that a person asked
// for the host's, and that must not be something else in silence.
func bare(spec *specs.Spec) bool { return spec.Linux.CgroupsPath == "" }

func checkNamespaces(p *Policy, spec *specs.Spec) error {
	for _, n := range namespaceRules {
		present, where := false, ""
		for _, have := range spec.Linux.Namespaces {
			if have.Type == n.kind {
				present, where = true, have.Path
			}
		}
		switch {
		case !present && bare(spec):
		case !present && n.kind == specs.NetworkNamespace:
			return p.CheckNetworkNamespace("", true)
		case !present && n.required:
			return refuseFlag("flags."+string(n.kind), n.flag+" host",
				"the container would share the host's "+string(n.kind)+" namespace, and a VM stands between the two",
				"start the container without it")
		case where == "":
		case n.kind == specs.NetworkNamespace:
			if err := p.CheckNetworkNamespace(where, false); err != nil {
				return err
			}
			p.Network.Namespace = where
		default:
			return refuseFlag("flags."+string(n.kind), n.flag+" container:… (the namespace "+quote(where)+")",
				"a VM has a kernel of its own, which cannot join a "+string(n.kind)+" namespace of the host's",
				"start the container without it")
		}
	}
	return nil
}

// CheckNetworkNamespace judges the network namespace that the container is to
// join. isHost is whether the caller, who can look, found it to be the host's
// own.
func (p *Policy) CheckNetworkNamespace(where string, isHost bool) error {
	if !isHost && !hostNetwork.MatchString(path.Clean(where)) {
		return nil
	}
	what := "--network host"
	if where != "" {
		what += " (the namespace " + quote(where) + ")"
	}
	return refuseFlag("flags.network", what,
		"the container would share the host's network namespace, and with it everything that listens on the host's loopback",
		"use the default network and publish ports with -p")
}

// privileged reports whether the container asked for every device, which is how
// --privileged shows: the last device rule, the one that decides, allows all and
// names no type. "--device-cgroup-rule" cannot write that one; it always names a
// type.
func privileged(spec *specs.Spec) bool {
	if spec.Linux.Resources == nil || len(spec.Linux.Resources.Devices) == 0 {
		return false
	}
	d := spec.Linux.Resources.Devices[len(spec.Linux.Resources.Devices)-1]
	return d.Allow && d.Type == "" && d.Access == "rwm" && d.Major == nil && d.Minor == nil
}

func checkHooks(h *specs.Hooks) error {
	if h == nil {
		return nil
	}
	//nolint:staticcheck // Prestart is deprecated, and engines still send it.
	all := [][]specs.Hook{h.Prestart, h.CreateRuntime, h.CreateContainer, h.StartContainer, h.Poststart, h.Poststop}
	for _, hooks := range all {
		if len(hooks) > 0 {
			return refuseFlag("flags.hooks", "the OCI hook "+quote(hooks[0].Path),
				"it would run on the host and expect the container's processes there, but they are in a VM",
				"start the container without the option or the tool that adds it (--gpus, for example)")
		}
	}
	return nil
}

func refuseFlag(rule, what, why, instead string) error {
	return &Refusal{Rule: rule, Origin: baseline, What: what, Why: why, Instead: instead + ", or with --runtime=runc"}
}
