package choose

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/hypervisor/cloudhypervisor"
	"github.com/nanoclaw/nanoclaw/hypervisor/qemu"
)

// driver is a hypervisor whose guests end by themselves as it says, or never.
type driver struct {
	name   string
	slow   bool // the guest says something, and ends after the limit
	accel  qemu.Accel
	exit   *hypervisor.Exit
	err    error
	starts *int
}

func (d driver) Name() string   { return d.name }
func (d driver) Isolates() bool { return d.accel == qemu.KVM }
func (d driver) Start(_ context.Context, c hypervisor.Config) (hypervisor.VM, error) {
	*d.starts++
	if d.err != nil {
		return nil, d.err
	}
	if _, err := os.Stat(c.Dir); err != nil {
		return nil, err
	}
	v := &machine{done: make(chan struct{})}
	if d.slow {
		time.AfterFunc(benchLimit*3/2, func() { close(v.done) })
		v.exit = *boots
		return v, os.WriteFile(c.Console, []byte("agent: info: ready\n"), 0o600)
	}
	if d.exit != nil {
		v.exit = *d.exit
		close(v.done)
	}
	return v, nil
}

// machine is a VM that does nothing.
type machine struct {
	done chan struct{}
	exit hypervisor.Exit
}

func (m *machine) PID() int                                       { return 0 }
func (m *machine) Dial(context.Context, uint32) (net.Conn, error) { return nil, hypervisor.ErrStopped }
func (m *machine) AddNIC(context.Context, hypervisor.NIC) error   { return hypervisor.ErrStopped }
func (m *machine) RemoveNIC(context.Context, string) error        { return hypervisor.ErrStopped }
func (m *machine) Grow(context.Context, hypervisor.Size) error    { return hypervisor.ErrStopped }
func (m *machine) Pause(context.Context) error                    { return hypervisor.ErrStopped }
func (m *machine) Resume(context.Context) error                   { return hypervisor.ErrStopped }
func (m *machine) Stop(context.Context) error                     { return nil }
func (m *machine) Kill()                                          { close(m.done) }
func (m *machine) Done() <-chan struct{}                          { return m.done }
func (m *machine) Exit() hypervisor.Exit                          { return m.exit }

// benchLimit bounds a trial.
const benchLimit = 200 * time.Millisecond

// bench is a host with all programs and a /dev/kvm that opens.
type bench struct {
	host
	config Config
	starts int
	// How Cloud Hypervisor's guests end, and why they do not start.
	chExit *hypervisor.Exit
	chErr  error
}

func newBench(t *testing.T, exit *hypervisor.Exit, err error) *bench {
	t.Helper()
	dir := t.TempDir()
	touch := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	b := &bench{chExit: boots, config: Config{
		Hypervisor: "auto", CloudHypervisor: filepath.Join(dir, "ch-none"), QEMU: touch("qemu"), VhostDeviceVsock: touch("vsock"),
		Kernel: touch("vmlinux"), Image: touch("guest.img"),
		Dir: filepath.Join(dir, "run"), File: "/etc/nanoclaw/config.yaml",
	}}
	b.host = host{
		kvm: touch("kvm"), pvm: filepath.Join(dir, "absent"), open: os.OpenFile, limit: benchLimit,
		newQEMU: func(o qemu.Options) hypervisor.Hypervisor {
			return driver{name: "qemu", accel: o.Accel, exit: exit, err: err, starts: &b.starts}
		},
		newCH: func(cloudhypervisor.Options) hypervisor.Hypervisor {
			return driver{name: "cloud-hypervisor", accel: qemu.KVM, exit: b.chExit, err: b.chErr, starts: &b.starts}
		},
	}
	return b
}

var (
	boots  = &hypervisor.Exit{Cause: hypervisor.CauseGuest}
	panics = &hypervisor.Exit{Cause: hypervisor.CausePanic}
)

func TestAKVMThatBootsIsChosenAndTriedOnce(t *testing.T) {
	b := newBench(t, boots, nil)
	b.config.AllowEmulation = true
	for range 3 {
		r := b.examine(context.Background(), b.config)
		if r.Err() != nil || !r.Chosen.Isolates() {
			t.Fatalf("got %+v, %v", r, r.Err())
		}
	}
	if b.starts != 1 {
		t.Errorf("%d trials", b.starts)
	}
	left, err := filepath.Glob(filepath.Join(b.config.Dir, "trial-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left: %q, %v", left, err)
	}
}

func TestEmulationOnlyWhereItIsAllowed(t *testing.T) {
	b := newBench(t, panics, nil)
	err := b.examine(context.Background(), b.config).Err()
	if !errors.Is(err, ErrNone) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"cloud-hypervisor", "panicked", "allow_emulation", b.config.File} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	b.config.AllowEmulation = true
	r := b.examine(context.Background(), b.config)
	if r.Err() != nil || r.Chosen.Isolates() {
		t.Fatalf("got %+v, %v", r, r.Err())
	}
	if b.starts != 1 {
		t.Errorf("%d trials", b.starts)
	}
}

func TestProblemsAreNamed(t *testing.T) {
	for want, spoil := range map[string]func(*bench){
		"is absent: turn":  func(b *bench) { b.kvm += "-none" },
		"vsock-none":       func(b *bench) { b.config.VhostDeviceVsock += "-none" },
		"qemu-none":        func(b *bench) { b.config.QEMU += "-none" },
		"vmlinux-none":     func(b *bench) { b.config.Kernel += "-none" },
		"ch-none":          func(b *bench) { b.config.Hypervisor = "cloud-hypervisor" },
		"did not start: x": func(b *bench) {},
	} {
		b := newBench(t, nil, errors.New("x"))
		spoil(b)
		if err := b.examine(context.Background(), b.config).Err(); !errors.Is(err, ErrNone) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// A guest that nothing can boot is named, and not a hypervisor.
func TestAGuestThatIsNotThereIsNoMatterOfChoice(t *testing.T) {
	b := newBench(t, nil, nil)
	for path, problem := range map[string]string{
		b.config.Kernel:           "is no uncompressed kernel",
		b.config.Kernel + "-none": "cannot be read",
	} {
		b.config.Kernel = path
		_, err := Hypervisor(context.Background(), b.config)
		if err == nil || errors.Is(err, ErrNone) || !strings.Contains(err.Error(), "the guest kernel "+path+" "+problem) {
			t.Errorf("got %v", err)
		}
	}
}

func TestAGuestThatHangsUnderPVM(t *testing.T) {
	b := newBench(t, nil, nil)
	b.pvm = b.kvm
	began := time.Now()
	err := b.examine(context.Background(), b.config).Err()
	if err == nil || !strings.Contains(err.Error(), "did not boot within 3s; it is kvm_pvm's") {
		t.Fatalf("got %v", err)
	}
	if took := time.Since(began); took > 2*trialLimitPVM {
		t.Errorf("took %v", took)
	}
}

func TestACallerWhoGivesUpLeavesNoVerdict(t *testing.T) {
	b := newBench(t, nil, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := b.examine(ctx, b.config).Err(); err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Fatalf("got %v", err)
	}
	left, err := filepath.Glob(filepath.Join(b.config.Dir, "*.json"))
	if err != nil || len(left) != 0 {
		t.Errorf("left: %q, %v", left, err)
	}
}

func TestCloudHypervisorIsPreferred(t *testing.T) {
	b := newBench(t, boots, nil)
	b.config.CloudHypervisor = b.config.QEMU
	for range 2 {
		r := b.examine(context.Background(), b.config)
		if r.Err() != nil || r.Chosen.Name() != "cloud-hypervisor" {
			t.Fatalf("got %+v, %v", r, r.Err())
		}
	}
	if b.starts != 1 {
		t.Errorf("%d trials", b.starts)
	}
	// Each candidate has a verdict of its own.
	b.config.Hypervisor = "qemu"
	if r := b.examine(context.Background(), b.config); r.Err() != nil || r.Chosen.Name() != "qemu" || b.starts != 2 {
		t.Errorf("got %+v after %d trials", r, b.starts)
	}
}

func TestQEMUByNameLeavesOthersOut(t *testing.T) {
	b := newBench(t, boots, nil)
	b.config.Hypervisor = "qemu"
	r := b.examine(context.Background(), b.config)
	if r.Err() != nil || len(r.Candidates) != 2 || r.Candidates[0].Name != "qemu with KVM" {
		t.Fatalf("got %+v", r)
	}
}

// TestAuto is what "auto" makes of each kind of host.
func TestAuto(t *testing.T) {
	const ch, kvm, tcg = "cloud-hypervisor", "qemu with KVM", "qemu without KVM"
	withCH := func(b *bench) { b.config.CloudHypervisor = b.config.QEMU }
	for name, c := range map[string]struct {
		exit     *hypervisor.Exit // of QEMU's guests with KVM
		host     func(*bench)
		chosen   string
		problems map[string]string
		trials   int
	}{
		"KVM and Cloud Hypervisor":  {boots, withCH, ch, nil, 1},
		"KVM, no Cloud Hypervisor":  {boots, func(*bench) {}, kvm, map[string]string{ch: "ch-none was not found"}, 1},
		"an old Cloud Hypervisor":   {boots, func(b *bench) { withCH(b); b.chErr = errors.New("install version 52") }, kvm, map[string]string{ch: "install version 52"}, 2},
		"a KVM that boots nothing":  {panics, func(b *bench) { withCH(b); b.chExit = panics }, tcg, map[string]string{ch: "kvm opens, but", kvm: "kvm opens, but"}, 2},
		"a KVM that hangs":          {nil, func(b *bench) { withCH(b); b.chExit, b.pvm = nil, b.kvm }, tcg, map[string]string{ch: "did not boot", kvm: "did not boot"}, 2},
		"a KVM that is slow":        {nil, func(b *bench) { withCH(b); b.chExit = nil }, tcg, map[string]string{ch: "very busy", kvm: "very busy"}, 2},
		"no KVM":                    {boots, func(b *bench) { withCH(b); b.kvm += "-none" }, tcg, map[string]string{ch: "is absent", kvm: "is absent"}, 0},
		"no right to KVM":           {boots, func(b *bench) { withCH(b); b.open = denied }, tcg, map[string]string{ch: "run as root", kvm: "run as root"}, 0},
		"no KVM, and no emulation":  {boots, func(b *bench) { b.kvm += "-none"; b.config.AllowEmulation = false }, "", map[string]string{tcg: "emulation is no isolation"}, 0},
		"nothing but QEMU's helper": {boots, func(b *bench) { b.config.QEMU += "-none" }, "", map[string]string{kvm: "qemu-none was not found", tcg: "qemu-none was not found"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, c.exit, nil)
			b.config.AllowEmulation = true
			c.host(b)
			for range 2 {
				chosen := ""
				for _, got := range b.examine(context.Background(), b.config).Candidates {
					if got.Outcome == Chosen {
						chosen = got.Name
					}
					if (got.Outcome == Unusable) != (got.Problem != "") || !strings.Contains(got.Problem, c.problems[got.Name]) {
						t.Errorf("%+v, want the problem %q", got, c.problems[got.Name])
					}
				}
				if chosen != c.chosen {
					t.Errorf("chosen: %q, want %q", chosen, c.chosen)
				}
			}
			if b.starts != c.trials {
				t.Errorf("%d trials in two examinations, want %d", b.starts, c.trials)
			}
			if c.exit == nil {
				return // more time than it is worth
			}
			b.config.Again = true
			b.examine(context.Background(), b.config)
			if b.starts != 2*c.trials {
				t.Errorf("%d trials after one more was asked for, want %d", b.starts, 2*c.trials)
			}
		})
	}
}

func denied(name string, _ int, _ os.FileMode) (*os.File, error) {
	return nil, &os.PathError{Op: "open", Path: name, Err: os.ErrPermission}
}

func TestAGuestThatHasSpokenIsWaitedForLonger(t *testing.T) {
	b := newBench(t, boots, nil)
	b.newQEMU = func(o qemu.Options) hypervisor.Hypervisor {
		return driver{name: "qemu", accel: o.Accel, slow: true, starts: &b.starts}
	}
	if r := b.examine(context.Background(), b.config); r.Chosen == nil || !r.Chosen.Isolates() {
		t.Errorf("got %+v", r)
	}
}
