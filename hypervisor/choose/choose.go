// Package choose picks the hypervisor that runs VMs on this host.
//
// That /dev/kvm opens proves nothing: there are hosts whose KVM makes a VM and
// a virtual CPU and then boots no ordinary kernel. So a candidate is tried: it
// boots our own guest once, and the verdict is kept until the host boots again
// or something of it changes; that a guest was slow, for some minutes only.
//
// Emulation is never chosen unless the host's owner allows it: it is no
// isolation.
package choose

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/hypervisor/cloudhypervisor"
	"github.com/nanoclaw/nanoclaw/hypervisor/qemu"
	"github.com/nanoclaw/nanoclaw/internal/program"
)

// ErrNone is wrapped by the error for a host on which nothing can run a VM.
var ErrNone = errors.New("no hypervisor can be used on this host")

// Config is what the host's owner allows, and where the parts are.
type Config struct {
	// Hypervisor is "auto", "cloud-hypervisor" or "qemu".
	Hypervisor string
	// AllowEmulation permits QEMU without KVM.
	AllowEmulation bool
	// Programs, each a path or a name to look up.
	CloudHypervisor, QEMU, VhostDeviceVsock string
	// Kernel and Image are what a trial boots.
	Kernel, Image string
	// Dir is the run directory; verdicts are kept in it.
	Dir string
	// File is the configuration's file, for messages.
	File string
	// Again makes every trial anew, whatever was found earlier.
	Again bool
}

// Outcome is what became of a candidate.
type Outcome string

const (
	// Chosen is the candidate that runs VMs.
	Chosen Outcome = "chosen"
	// Unusable has a Problem.
	Unusable Outcome = "cannot be used"
	// Untried was not looked at, because an earlier one is chosen.
	Untried Outcome = "not tried"
)

// Candidate is one way to run VMs, and what was found about it.
type Candidate struct {
	Name    string
	Outcome Outcome
	// Problem is why it cannot be used, empty for other outcomes.
	Problem string
}

// Report is what was tried, found and chosen.
type Report struct {
	// KVM is what keeps this host's KVM from being opened, empty where it opens.
	KVM string
	// Candidates are in the order of preference.
	Candidates []Candidate
	// Chosen is nil where nothing can be used.
	Chosen hypervisor.Hypervisor
	file   string
}

// Err says, where nothing was chosen, what was tried and what to do.
func (r Report) Err() error {
	if r.Chosen != nil {
		return nil
	}
	tried := make([]string, len(r.Candidates))
	for i, c := range r.Candidates {
		tried[i] = c.Name + ": " + c.Problem
	}
	return fmt.Errorf("%w. Tried: %s. Use a host with a working KVM, or, for development only, set allow_emulation: true in %s",
		ErrNone, strings.Join(tried, "; "), r.file)
}

// Hypervisor returns the hypervisor that c allows and this host has, or an
// error that says what was tried and what to do. A guest that no hypervisor could
// boot is no matter of choice, and named as what is wrong.
func Hypervisor(ctx context.Context, c Config) (hypervisor.Hypervisor, error) {
	if err := hypervisor.CheckKernel(c.Kernel); err != nil {
		return nil, err
	}
	if err := hypervisor.CheckImage(c.Image); err != nil {
		return nil, err
	}
	r := Examine(ctx, c)
	return r.Chosen, r.Err()
}

// Examine tries what c allows until something can be used.
func Examine(ctx context.Context, c Config) Report { return system.examine(ctx, c) }

// host is where the parts of a host are found, and how drivers are made.
type host struct {
	kvm     string        // the device
	pvm     string        // there where KVM needs a kernel made for it
	limit   time.Duration // of a trial
	open    func(name string, flag int, mode os.FileMode) (*os.File, error)
	newQEMU func(qemu.Options) hypervisor.Hypervisor
	newCH   func(cloudhypervisor.Options) hypervisor.Hypervisor
}

var system = host{
	kvm:     "/dev/kvm",
	pvm:     "/sys/module/kvm_pvm",
	limit:   trialLimit,
	open:    os.OpenFile,
	newQEMU: func(o qemu.Options) hypervisor.Hypervisor { return qemu.New(o) },
	newCH:   func(o cloudhypervisor.Options) hypervisor.Hypervisor { return cloudhypervisor.New(o) },
}

// option is a candidate that can be looked at.
type option struct {
	name string
	try  func(context.Context) (h hypervisor.Hypervisor, problem string)
}

func (s host) examine(ctx context.Context, c Config) Report {
	r := Report{KVM: s.openKVM(), file: c.File}
	for _, o := range s.options(c) {
		candidate := Candidate{Name: o.name, Outcome: Untried}
		if r.Chosen == nil {
			candidate.Outcome = Chosen
			if r.Chosen, candidate.Problem = o.try(ctx); r.Chosen == nil {
				candidate.Outcome = Unusable
			}
		}
		r.Candidates = append(r.Candidates, candidate)
	}
	return r
}

// options returns what c asks for, in the order of preference.
func (s host) options(c Config) []option {
	ch := option{"cloud-hypervisor", func(ctx context.Context) (hypervisor.Hypervisor, string) {
		binary, err := program.Find(c.CloudHypervisor, c.File)
		if err != nil {
			return nil, err.Error()
		}
		return s.tryKVM(ctx, c, s.newCH(cloudhypervisor.Options{Binary: binary}), binary)
	}}
	qemuKVM := option{"qemu with KVM", func(ctx context.Context) (hypervisor.Hypervisor, string) {
		o, err := qemuOptions(c, qemu.KVM)
		if err != nil {
			return nil, err.Error()
		}
		return s.tryKVM(ctx, c, s.newQEMU(o), o.Binary, o.VsockBinary)
	}}
	qemuTCG := option{"qemu without KVM", func(context.Context) (hypervisor.Hypervisor, string) {
		return s.tryEmulation(c)
	}}
	switch c.Hypervisor {
	case "cloud-hypervisor":
		return []option{ch}
	case "qemu":
		return []option{qemuKVM, qemuTCG}
	default:
		return []option{ch, qemuKVM, qemuTCG}
	}
}

// tryKVM tries a driver of the binaries on this host's KVM, unless a verdict is kept.
func (s host) tryKVM(ctx context.Context, c Config, h hypervisor.Hypervisor, binaries ...string) (hypervisor.Hypervisor, string) {
	if problem := s.openKVM(); problem != "" {
		return nil, problem
	}
	key, err := verdictKey(append(binaries, c.Kernel, c.Image)...)
	if err != nil {
		return nil, err.Error()
	}
	v := verdicts{dir: c.Dir, name: h.Name(), again: c.Again}
	problem, err := v.get(key, func() (finding, error) { return s.trial(ctx, c, h) })
	if err != nil {
		return nil, "try KVM: " + err.Error()
	}
	if problem != "" {
		return nil, problem
	}
	return h, ""
}

// openKVM says what keeps KVM from being used at all, or "".
func (s host) openKVM() string {
	f, err := s.open(s.kvm, os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return s.kvm + " is absent: turn virtualisation on in the firmware, or nested virtualisation where this host is a VM, and load kvm_intel or kvm_amd"
	case errors.Is(err, os.ErrPermission):
		return fmt.Sprintf("%v: run as root, or as a member of the device's group; where root is refused, this is a container without the device", err)
	case err != nil:
		return err.Error()
	}
	if err := f.Close(); err != nil {
		return err.Error()
	}
	return ""
}

func (s host) tryEmulation(c Config) (hypervisor.Hypervisor, string) {
	if !c.AllowEmulation {
		return nil, "emulation is no isolation, and allow_emulation is not set"
	}
	o, err := qemuOptions(c, qemu.TCG)
	if err != nil {
		return nil, err.Error()
	}
	return s.newQEMU(o), ""
}

func qemuOptions(c Config, accel qemu.Accel) (qemu.Options, error) {
	binary, err := program.Find(c.QEMU, c.File)
	if err != nil {
		return qemu.Options{}, err
	}
	vsock, err := program.Find(c.VhostDeviceVsock, c.File, program.VhostDeviceVsock...)
	if err != nil {
		return qemu.Options{}, err
	}
	return qemu.Options{Binary: binary, VsockBinary: vsock, Accel: accel}, nil
}
