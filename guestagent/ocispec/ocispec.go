// Package ocispec turns the OCI documents that the host sends into what crun
// is given in the VM.
//
// The host has translated its own paths already. This package holds it to
// that: it refuses a source outside the share, a hook, a namespace of the
// host, and drops by name what has no meaning in a VM. It is pure: it opens no
// file. It does not decide what the container may do (package annotations).
package ocispec

import (
	"encoding/json"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Guest is what the VM offers the container.
type Guest struct {
	// CgroupPath is the container's group, below the root of the hierarchy.
	CgroupPath string
	// NetworkNamespace is the path of the sandbox's.
	NetworkNamespace string
	// Swap: the kernel limits swap, so a limit of it can be set.
	Swap bool
	// Terminal: the process is to have one.
	Terminal bool
}

// Dropped names parts of a document that were left out, each with the reason.
type Dropped []string

func (d *Dropped) add(format string, args ...any) {
	*d = append(*d, fmt.Sprintf(format, args...))
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// Container reads raw, an OCI runtime specification, and makes it fit for the
// guest. The returned document names every path absolutely.
func Container(raw []byte, g Guest) (*specs.Spec, Dropped, error) {
	var spec specs.Spec
	if err := decode(raw, &spec); err != nil {
		return nil, nil, fmt.Errorf("container specification: %w", err)
	}
	var dropped Dropped
	if err := fit(&spec, g, &dropped); err != nil {
		return nil, nil, fmt.Errorf("container specification: %w", err)
	}
	return &spec, dropped, nil
}

// Process reads raw, an OCI process object, and makes it fit for the guest.
func Process(raw []byte, terminal bool) (*specs.Process, Dropped, error) {
	var process specs.Process
	if err := decode(raw, &process); err != nil {
		return nil, nil, fmt.Errorf("process: %w", err)
	}
	var dropped Dropped
	if err := fitProcess(&process, terminal, &dropped); err != nil {
		return nil, nil, fmt.Errorf("process: %w", err)
	}
	return &process, dropped, nil
}

func decode(raw []byte, into any) error {
	if len(raw) > agent.MaxSpecBytes {
		return invalid("%d bytes are over %d", len(raw), agent.MaxSpecBytes)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return invalid("%v", err)
	}
	return nil
}

func fit(spec *specs.Spec, g Guest, dropped *Dropped) error {
	if spec.Root == nil || spec.Process == nil || spec.Linux == nil {
		return invalid("root, process and linux are needed")
	}
	for name, there := range map[string]bool{
		"windows": spec.Windows != nil, "solaris": spec.Solaris != nil, "vm": spec.VM != nil, "zos": spec.ZOS != nil, "freebsd": spec.FreeBSD != nil,
	} {
		if there {
			return invalid("%s is for another platform than Linux containers", name)
		}
	}
	if h := spec.Hooks; h != nil && len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer)+ //nolint:staticcheck // the deprecated kind is refused as well
		len(h.StartContainer)+len(h.Poststart)+len(h.Poststop) > 0 {
		return invalid("hooks are programs of the host and cannot run in the VM")
	}
	spec.Hooks = nil
	root, err := inShare(spec.Root.Path)
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	spec.Root.Path = root
	if err := fitProcess(spec.Process, g.Terminal, dropped); err != nil {
		return fmt.Errorf("process: %w", err)
	}
	for i := range spec.Mounts {
		if err := fitMount(&spec.Mounts[i]); err != nil {
			return fmt.Errorf("mount on %q: %w", spec.Mounts[i].Destination, err)
		}
	}
	// crun takes instructions from annotations; to the container they are not
	// visible at all.
	if len(spec.Annotations) > 0 {
		spec.Annotations = nil
		dropped.add("annotations: they are the host's")
	}
	return fitLinux(spec.Linux, g, dropped)
}

// inShare returns the absolute path of p, which is absolute or relative to the
// share, and must be below it.
func inShare(p string) (string, error) {
	if strings.ContainsRune(p, 0) || p == "" {
		return "", invalid("%q is not a path", p)
	}
	abs := p
	if !path.IsAbs(p) {
		abs = agent.ShareDir + "/" + p
	}
	if slices.Contains(strings.Split(abs, "/"), "..") {
		return "", invalid("%q contains ..", p)
	}
	abs = path.Clean(abs)
	if !strings.HasPrefix(abs, agent.ShareDir+"/") {
		return "", invalid("%q is not below %s", p, agent.ShareDir)
	}
	return abs, nil
}

func fitProcess(p *specs.Process, terminal bool, dropped *Dropped) error {
	if len(p.Args) == 0 {
		return invalid("args must not be empty")
	}
	if !path.IsAbs(p.Cwd) {
		return invalid("cwd %q is not absolute", p.Cwd)
	}
	p.Terminal = terminal
	// What is not said is inherited, from the agent, which nothing may kill for want
	// of memory; a container at its limit would then hang instead of being killed.
	if p.OOMScoreAdj == nil {
		p.OOMScoreAdj = new(int)
	}
	if p.CommandLine != "" {
		dropped.add("process.commandLine: it is for Windows")
		p.CommandLine = ""
	}
	if p.User.Username != "" {
		dropped.add("process.user.username %q: it is for Windows", p.User.Username)
		p.User.Username = ""
	}
	// The guest's kernel has neither module; the names are of the host's policy.
	if p.ApparmorProfile != "" {
		dropped.add("process.apparmorProfile %q: AppArmor is the host's", p.ApparmorProfile)
		p.ApparmorProfile = ""
	}
	if p.SelinuxLabel != "" {
		dropped.add("process.selinuxLabel %q: SELinux is the host's", p.SelinuxLabel)
		p.SelinuxLabel = ""
	}
	return nil
}

// kernelMounts are the types of mounts that take nothing from a path.
var kernelMounts = []string{"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"}

// devices are those of the guest's that may take a file's place: "-v
// /dev/null:/app/.env" is how people hide one.
var devices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}

func fitMount(m *specs.Mount) error {
	if !path.IsAbs(m.Destination) {
		return invalid("the destination is not absolute")
	}
	if isBind(m) {
		if slices.Contains(devices, m.Source) {
			return nil
		}
		source, err := inShare(m.Source)
		if err != nil {
			return err
		}
		m.Source = source
		return nil
	}
	if !slices.Contains(kernelMounts, m.Type) {
		return invalid("type %q is not one of bind, %s", m.Type, strings.Join(kernelMounts, ", "))
	}
	return nil
}

func isBind(m *specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// Sources returns the paths below the share that spec names.
func Sources(spec *specs.Spec) []string {
	paths := []string{spec.Root.Path}
	for i := range spec.Mounts {
		if m := &spec.Mounts[i]; isBind(m) && !slices.Contains(devices, m.Source) {
			paths = append(paths, filepath.Clean(spec.Mounts[i].Source))
		}
	}
	return paths
}
