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
func (m *machine) Pause(context.Context) error                    { return hypervisor.ErrStopped }
func (m *machine) Resume(context.Context) error                   { return hypervisor.ErrStopped }
func (m *machine) Stop(context.Context) error                     { return nil }
func (m *machine) Kill()                                          { close(m.done) }
func (m *machine) Done() <-chan struct{}                          { return m.done }
func (m *machine) Exit() hypervisor.Exit                          { return m.exit }

// bench is a host with all programs and a /dev/kvm that opens.
type bench struct {
	host
	config Config
	starts int
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
	b := &bench{config: Config{
		Hypervisor: "auto", CloudHypervisor: filepath.Join(dir, "ch-none"), QEMU: touch("qemu"), VhostDeviceVsock: touch("vsock"),
		Kernel: touch("vmlinux"), Image: touch("guest.img"),
		Dir: filepath.Join(dir, "run"), File: "/etc/nanoclaw/config.yaml",
	}}
	b.host = host{
		kvm: touch("kvm"), pvm: filepath.Join(dir, "absent"),
		newQEMU: func(o qemu.Options) hypervisor.Hypervisor {
			return driver{name: "qemu", accel: o.Accel, exit: exit, err: err, starts: &b.starts}
		},
		newCH: func(cloudhypervisor.Options) hypervisor.Hypervisor {
			return driver{name: "cloud-hypervisor", accel: qemu.KVM, exit: boots, starts: &b.starts}
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
