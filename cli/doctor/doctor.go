// Package doctor finds out whether containers can start in VMs on this host, and
// how isolated they are.
//
// It asks the packages that start them, in the way in which they would: the same
// search for programs, the same choice of a hypervisor with the same trial, the
// same check of the kernel's network features. It changes nothing but the kept
// verdict of that trial. It mends nothing: a finding says what to do.
package doctor

import (
	"context"
	"os"

	"github.com/nanoclaw/nanoclaw/cli/engine"
	"github.com/nanoclaw/nanoclaw/hypervisor/choose"
	"github.com/nanoclaw/nanoclaw/shim/config"
	"github.com/nanoclaw/nanoclaw/shim/hidefs"
	"github.com/nanoclaw/nanoclaw/shim/network"
)

// DefaultConfig is the runtime's configuration where nobody names another.
const DefaultConfig = config.DefaultPath

// Host is what is looked at.
type Host struct {
	// Config is the runtime's configuration; empty is the one that Docker's
	// configuration names, or the default.
	Config string
	// DaemonJSON is Docker's configuration, DockerSocket where its daemon answers.
	DaemonJSON, DockerSocket string
	// Again has the trial guests booted anew.
	Again bool

	root    bool
	choose  func(context.Context, choose.Config) choose.Report
	network func() error
	gateway func() error
	hidden  func() error
}

// ThisHost is the one that this program runs on.
func ThisHost() Host {
	return Host{
		DaemonJSON:   "/etc/docker/daemon.json",
		DockerSocket: engine.Here(),
		root:         os.Geteuid() == 0,
		choose:       choose.Examine,
		network:      network.Check,
		gateway:      network.CheckGateway,
		hidden:       hidefs.Check,
	}
}

// Examine looks at the host.
func (h Host) Examine(ctx context.Context) Report {
	registered, docker := h.docker(ctx)
	cfg, file, configuration := h.configuration(registered)
	choice := cfg.Choice()
	// A file that cannot be used leaves the defaults, and is the one to mend.
	choice.File, choice.Again = file, h.Again
	chosen := h.choose(ctx, choice)

	r := Report{Isolation: NoVM}
	if hv := chosen.Chosen; hv != nil {
		r.Hypervisor, r.Isolation = hv.Name(), Emulation
		if hv.Isolates() {
			r.Isolation = Hardware
		}
	}
	r.Sections = []Section{
		configuration,
		hypervisors(chosen, file),
		programs(ctx, cfg, file, r.Hypervisor),
		guest(cfg),
		h.kernel(),
		h.files(),
		docker,
	}
	r.Ready = r.problems() == 0
	return r
}

// configuration reads the runtime's. Where it cannot be read, the defaults are
// looked at further.
func (h Host) configuration(registered registration) (config.Config, string, Section) {
	s := Section{Name: "Configuration"}
	if !h.root {
		s.add("rights", Problem, "run it as root", "only root can try a virtual machine and a network; not all of what follows is so")
	}
	named := h.Config
	if named == "" {
		named = registered.config
	}
	file := named
	if file == "" {
		file = DefaultConfig
	}
	cfg, err := config.Load(named)
	_, missing := os.Stat(file)
	switch {
	case err != nil:
		s.add("file", Problem, "mend it; until then every container is refused", "%v", err)
		cfg = config.Default()
	case missing != nil:
		s.add("file", OK, "", "%s is absent: every setting has its default", file)
	default:
		s.add("file", OK, "", "%s: valid; hypervisor %s, emulation %s", file, cfg.Hypervisor, map[bool]string{true: "allowed", false: "not allowed"}[cfg.AllowEmulation])
	}
	return cfg, file, s
}

// hypervisors tells of the candidates.
func hypervisors(r choose.Report, file string) Section {
	s := Section{Name: SectionHypervisor}
	if r.KVM == "" {
		s.add("KVM", OK, "", "it opens; whether it boots a guest, a trial tells")
	} else {
		s.add("KVM", Unused, "", "%s", r.KVM)
	}
	for _, c := range r.Candidates {
		switch {
		case c.Outcome == choose.Untried:
			s.add(c.Name, Unused, "", "not tried: an earlier one works")
		case c.Outcome == choose.Unusable:
			s.add(c.Name, Unused, "", "%s", c.Problem)
		case r.Chosen.Isolates():
			s.add(c.Name, OK, "", "chosen: a trial guest booted")
		default:
			s.add(c.Name, Warning, "use a host with a working KVM for anything that must be contained, and take allow_emulation out of "+file,
				"chosen: EMULATION, NO ISOLATION. Whoever breaks out of the emulator is on this host")
		}
	}
	if r.Chosen == nil {
		s.add("none can be used", Problem, "use a host with a working KVM, or, for development only, set allow_emulation: true in "+file,
			"no container can start")
	}
	return s
}

// kernel checks what the network needs of the host's kernel.
func (h Host) kernel() Section {
	s := Section{Name: "Network"}
	if !h.root {
		s.add("kernel features", Warning, "run it as root", "not checked")
		return s
	}
	err := h.network()
	if err == nil {
		s.add("kernel features", OK, "", "all there: tap devices, nftables for network devices, both ways, with dup and sets")
		if err := h.gateway(); err != nil {
			s.add("rules about the network", Warning, "use a kernel with these options, or no such rules", "a container that has some does not start: %v", err)
		} else {
			s.add("rules about the network", OK, "", "can be kept: nftables with address translation, redirect and reject")
		}
		return s
	}
	each := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		each = joined.Unwrap()
	}
	for _, err := range each {
		s.add("kernel features", Problem, "use a kernel with that option; where it is a module, it must be loadable", "%v", err)
	}
	return s
}

// files checks what hidden paths need of the host's kernel.
func (h Host) files() Section {
	s := Section{Name: "Files"}
	if !h.root {
		s.add("hidden paths", Warning, "run it as root", "not checked")
	} else if err := h.hidden(); err != nil {
		s.add("hidden paths", Warning, "modprobe fuse, also at boot (/etc/modules-load.d), in a kernel with CONFIG_FUSE_FS; or hide no paths",
			"a container that has some (mounts.hide) does not start: %v", err)
	} else {
		s.add("hidden paths", OK, "", "can be kept: FUSE")
	}
	return s
}
