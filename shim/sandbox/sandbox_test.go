package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nanoclaw/nanoclaw/annotations"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/api/stream"
	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/hypervisor/hybridvsock"
	"github.com/nanoclaw/nanoclaw/shim/config"
	"github.com/nanoclaw/nanoclaw/shim/guest/guesttest"
	"github.com/nanoclaw/nanoclaw/shim/launch"
	"github.com/nanoclaw/nanoclaw/shim/share"
)

// patience is how long a test waits for what must come.
const patience = 15 * time.Second

// fakeVM is a hypervisor with its one VM, whose guest is the test's.
type fakeVM struct {
	t     *testing.T
	guest *guesttest.Guest
	// boot is what the guest does when it boots; nil: its agent calls.
	boot func(*fakeVM) error
	// powerOff is what it does when it is asked to power off.
	powerOff func(*fakeVM) error
	config   hypervisor.Config
	// grown is the size it was last given.
	grown hypervisor.Size

	once sync.Once
	done chan struct{}
	exit hypervisor.Exit
}

func newFakeVM(t *testing.T) *fakeVM {
	return &fakeVM{t: t, guest: guesttest.New(), done: make(chan struct{}), powerOff: func(v *fakeVM) error {
		v.end(hypervisor.CauseGuest, "")
		return errors.New("the VM is still on")
	}}
}

func (v *fakeVM) end(cause hypervisor.Cause, detail string) {
	v.once.Do(func() {
		v.exit = hypervisor.Exit{Cause: cause, Detail: detail, At: time.Now()}
		v.guest.Cut()
		close(v.done)
	})
}

func (v *fakeVM) Name() string   { return "fake" }
func (v *fakeVM) Isolates() bool { return false }

func (v *fakeVM) Start(_ context.Context, c hypervisor.Config) (hypervisor.VM, error) {
	v.config = c
	boot := v.boot
	if boot == nil {
		boot = (*fakeVM).call
	}
	return v, boot(v)
}

// call is the agent's call to the host.
func (v *fakeVM) call() error {
	return v.guest.Call(v.t, fakeAgent{vm: v}, hybridvsock.ListenerPath(hypervisor.VsockPath(v.config.Dir), agent.ControlPort))
}

func (v *fakeVM) PID() int { return 4242 }
func (v *fakeVM) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	return v.guest.Dial(ctx, port)
}
func (v *fakeVM) AddNIC(context.Context, hypervisor.NIC) error     { return nil }
func (v *fakeVM) RemoveNIC(context.Context, string) error          { return nil }
func (v *fakeVM) Grow(_ context.Context, to hypervisor.Size) error { v.grown = to; return nil }
func (v *fakeVM) Pause(context.Context) error                      { return nil }
func (v *fakeVM) Resume(context.Context) error                     { return nil }
func (v *fakeVM) Stop(context.Context) error                       { v.Kill(); return nil }
func (v *fakeVM) Kill()                                            { v.end(hypervisor.CauseStopped, "") }
func (v *fakeVM) Done() <-chan struct{}                            { return v.done }
func (v *fakeVM) Exit() hypervisor.Exit                            { return v.exit }

// fakeAgent can power the VM off and configure its network.
type fakeAgent struct {
	agent.AgentService
	vm *fakeVM
}

func (a fakeAgent) Shutdown(context.Context, *agent.ShutdownRequest) (*agent.ShutdownResponse, error) {
	return &agent.ShutdownResponse{}, a.vm.powerOff(a.vm)
}

// place is where a sandbox is started.
type place struct {
	Options
	vm  *fakeVM
	add func(*share.Share) error
}

func newPlace(t *testing.T) *place {
	t.Helper()
	needRoot(t)
	base, err := os.MkdirTemp("", "r") // short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	daemon := filepath.Join(t.TempDir(), "virtiofsd")
	if err := os.WriteFile(daemon, []byte("#!/bin/sh\nexec sleep 600\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.RunDir, cfg.Virtiofsd, cfg.BootTimeout = base, daemon, config.Duration(patience)
	p := &place{vm: newFakeVM(t), add: func(*share.Share) error { return nil }}
	p.Options = Options{
		Namespace: "moby", ID: filepath.Base(base), Bundle: t.TempDir(),
		Config: cfg, Hypervisor: p.vm, Launcher: launch.New(),
		Spec:   &specs.Spec{Linux: &specs.Linux{CgroupsPath: "/nanoclaw-test/" + filepath.Base(base)}},
		Policy: &annotations.Policy{},
	}
	t.Cleanup(func() {
		p.vm.end(hypervisor.CauseStopped, "")
		// The parent of the cgroups, once the last is gone.
		_ = os.Remove("/sys/fs/cgroup/nanoclaw-test")
	})
	return p
}

func (p *place) start(ctx context.Context) (*Sandbox, error) {
	return Start(ctx, p.Options, func(s *share.Share) error { return p.add(s) })
}

func (p *place) mustStart(t *testing.T) *Sandbox {
	t.Helper()
	s, err := p.start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// empty fails the test where something of the sandbox is left.
func (p *place) empty(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(p.Config.RunDir)
	if err != nil || len(entries) != 0 {
		t.Errorf("%v, %v are left in the run directory", entries, err)
	}
	for _, hierarchy := range []string{"", "*/"} {
		if left, _ := filepath.Glob("/sys/fs/cgroup/" + hierarchy + "nanoclaw-test/" + p.ID); len(left) != 0 {
			t.Errorf("the cgroups %v are left", left)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), p.Config.RunDir) {
		t.Errorf("a mount is left below %s (%v)", p.Config.RunDir, err)
	}
}

// within fails the test unless c is closed in time.
func within(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("%s did not come", what)
	}
}

func TestSandboxLivesAndEnds(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := p.mustStart(t)
	if s.PID() != 4242 || s.Agent() == nil || s.Share() == nil || s.Timing().Agent.Before(s.Timing().VMM) {
		t.Fatalf("%+v is no sandbox", s)
	}
	if c := p.vm.config; c.CID < 3 || c.Memory%memoryStep != 0 || c.CPUs != 1 || len(c.NICs) != 1 || c.FSSocket != s.Share().Socket() {
		t.Fatalf("the VM was started with %+v", c)
	}
	// Nothing else in the guest reaches the host.
	if conn, err := net.Dial("unix", hybridvsock.ListenerPath(hypervisor.VsockPath(p.vm.config.Dir), agent.ControlPort)); err == nil {
		_ = conn.Close()
		t.Fatal("the host still listens for the guest")
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	within(t, "the end", s.Done())
	if s.End() != EndGuest || s.Cause() == nil {
		t.Fatalf("it ended by %s: %v", s.End(), s.Cause())
	}
	p.empty(t)
	if err := s.Close(t.Context()); err != nil {
		t.Fatalf("closing again: %v", err)
	}
}

// A limit above what the VM has makes it larger, what the host lets it take of
// memory with it, and the record says so.
func TestSandboxGrows(t *testing.T) {
	p := newPlace(t)
	s := p.mustStart(t)
	before := s.Info()
	if most := p.vm.config.MaxMemory; most < before.Memory+2*hypervisor.GrowthStep {
		t.Skipf("this machine has no room for a VM of more than %d MiB", most>>20)
	}
	limit := before.Memory
	cpus, err := s.Grow(t.Context(), &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}})
	if want := before.Memory + hypervisor.GrowthStep; err != nil || cpus != 0 || p.vm.grown.Memory != want || p.vm.grown.CPUs != 1 {
		t.Fatalf("it became %+v, with %d CPUs to bring online: %v", p.vm.grown, cpus, err)
	}
	now, err := s.dir.info()
	if err != nil || now.Memory != p.vm.grown.Memory || s.Info().Memory != now.Memory {
		t.Errorf("the record says %+v, %v", now, err)
	}
	var files []string
	for _, pattern := range []string{"memory/nanoclaw-test/" + p.ID + "/memory.limit_in_bytes", "nanoclaw-test/" + p.ID + "/memory.max"} {
		if content, err := os.ReadFile("/sys/fs/cgroup/" + pattern); err == nil {
			if got, _ := strconv.ParseInt(strings.TrimSpace(string(content)), 10, 64); got <= now.Memory {
				t.Errorf("the host lets it have %d bytes, of %d", got, now.Memory)
			}
			files = append(files, pattern)
		}
	}
	if len(files) != 1 {
		t.Errorf("its cgroup is at %v", files)
	}
	p.vm.grown = hypervisor.Size{}
	if _, err := s.Grow(t.Context(), &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}); err != nil || p.vm.grown != (hypervisor.Size{}) {
		t.Errorf("what it has it was given again: %+v, %v", p.vm.grown, err)
	}
	limit = p.vm.config.MaxMemory + 1
	if _, err := s.Grow(t.Context(), &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}); err == nil {
		t.Error("it became larger than the host")
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// However a part of it ends, the whole does.
func TestSandboxEndsWithItsParts(t *testing.T) {
	for name, tt := range map[string]struct {
		happen func(*fakeVM, *Sandbox)
		end    End
		says   string
	}{
		"the VMM": {func(v *fakeVM, _ *Sandbox) { v.end(hypervisor.CauseFailed, "its last words") }, EndVMM, "its last words"},
		"virtiofsd": {func(_ *fakeVM, s *Sandbox) {
			_ = syscall.Kill(s.Share().PID(), syscall.SIGKILL)
		}, EndShare, "virtiofsd"},
		"the agent":        {func(v *fakeVM, _ *Sandbox) { v.guest.Cut() }, EndAgent, "connection to the guest agent"},
		"the kernel":       {func(v *fakeVM, _ *Sandbox) { v.end(hypervisor.CausePanic, "") }, EndPanic, "panicked"},
		"the host's doing": {func(_ *fakeVM, s *Sandbox) { s.Kill() }, EndStopped, "stopped"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			s := p.mustStart(t)
			tt.happen(p.vm, s)
			within(t, "the end", s.Done())
			within(t, "the VM's end", p.vm.done)
			if s.End() != tt.end || !strings.Contains(s.Cause().Error(), tt.says) {
				t.Errorf("it ended by %s: %v", s.End(), s.Cause())
			}
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
			p.empty(t)
		})
	}
}

// A guest that does not power off is stopped, in bounded time.
func TestCloseOfAnUnwillingGuest(t *testing.T) {
	for name, powerOff := range map[string]func(*fakeVM) error{
		"it refuses":       func(*fakeVM) error { return errors.New("no") },
		"it says yes":      func(*fakeVM) error { return nil },
		"it never answers": func(v *fakeVM) error { <-v.done; return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			p.vm.powerOff = powerOff
			s := p.mustStart(t)
			began := time.Now()
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > 2*goodbye {
				t.Errorf("it took %s", took)
			}
			within(t, "the end", s.Done())
			p.empty(t)
		})
	}
}

// A sandbox that does not come to be says why, and leaves nothing.
func TestSandboxThatDoesNotStart(t *testing.T) {
	broken := errors.New("it broke")
	console := func(v *fakeVM) {
		if err := os.WriteFile(v.config.Console, []byte("Kernel panic\x1b[31m: no init\n"), 0o600); err != nil {
			v.t.Error(err)
		}
	}
	for name, tt := range map[string]struct {
		change func(*place)
		says   []string
	}{
		"a mount is refused": {func(p *place) { p.add = func(*share.Share) error { return broken } }, []string{"it broke"}},
		"no virtiofsd":       {func(p *place) { p.Config.Virtiofsd = "/absent/virtiofsd" }, []string{"/absent/virtiofsd"}},
		"the VMM does not start": {func(p *place) {
			p.vm.boot = func(v *fakeVM) error { v.Kill(); return broken }
		}, []string{"virtual machine with fake", "it broke"}},
		"the VMM dies": {func(p *place) {
			p.vm.boot = func(v *fakeVM) error { console(v); v.end(hypervisor.CauseFailed, "no KVM"); return nil }
		}, []string{"did not boot", "no KVM", "Kernel panic[31m: no init"}},
		"the guest hangs": {func(p *place) {
			p.Config.BootTimeout = config.Duration(50 * time.Millisecond)
			p.vm.boot = func(v *fakeVM) error { console(v); return nil }
		}, []string{"did not boot within 50ms", "no init"}},
		"the guest hangs silently": {func(p *place) {
			p.Config.BootTimeout = config.Duration(50 * time.Millisecond)
			p.vm.boot = func(*fakeVM) error { return nil }
		}, []string{"did not boot", "console is empty"}},
		"virtiofsd dies": {func(p *place) {
			if err := os.WriteFile(p.Config.Virtiofsd, []byte("#!/bin/sh\necho its last words >&2\nexit 1\n"), 0o755); err != nil {
				p.vm.t.Error(err)
			}
			p.vm.boot = func(*fakeVM) error { return nil }
		}, []string{"did not boot", "virtiofsd", "its last words"}},
		"a run directory that is a file": {func(p *place) {
			p.Config.RunDir = filepath.Join(p.Config.RunDir, "file")
			if err := os.WriteFile(p.Config.RunDir, nil, 0o600); err != nil {
				p.vm.t.Error(err)
			}
		}, []string{"/file/"}},
		"a bundle that is gone": {func(p *place) { p.Bundle = "/absent" }, []string{"/absent"}},
		"another's network": {func(p *place) {
			p.Policy.Network.Namespace = "/proc/self/ns/net"
		}, []string{"/proc/self/ns/net"}},
		"a network that is none": {func(p *place) {
			p.Policy.Network.Namespace = "/dev/null"
		}, []string{"/dev/null"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			tt.change(p)
			_, err := p.start(t.Context())
			if err == nil {
				t.Fatal("it started")
			}
			for _, part := range tt.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			if strings.Contains(err.Error(), "\x1b") {
				t.Errorf("%q brings the guest's control characters", err)
			}
			if name != "a run directory that is a file" {
				p.empty(t)
			}
			if p.vm.config.ID != "" {
				within(t, "the VM's end", p.vm.done)
			}
		})
	}
}

// An engine that gives up a create is not kept waiting for the guest.
func TestStartEndsWithContext(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	ctx, cancel := context.WithCancel(t.Context())
	p.vm.boot = func(*fakeVM) error {
		cancel()
		return nil
	}
	if _, err := p.start(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("Start = %v", err)
	}
	within(t, "the VM's end", p.vm.done)
	p.empty(t)
}

// DNS is relayed where the engine's resolver is the one that is asked, and the
// stream is opened once.
func TestWire(t *testing.T) {
	t.Parallel()
	for _, relayed := range []bool{false, true} {
		p := newPlace(t)
		s := p.mustStart(t)
		resolv := filepath.Join(t.TempDir(), "resolv.conf")
		server := "192.0.2.1"
		if relayed {
			server = "127.0.0.11"
		}
		if err := os.WriteFile(resolv, []byte("nameserver "+server+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		state, err := s.Wire(t.Context(), resolv)
		if err != nil || state.GetRelayDns() != relayed {
			t.Fatalf("Wire = %v, %v; want relayed names: %v", state, err, relayed)
		}
		if relayed {
			conn, err := p.vm.guest.Any(stream.DNS)
			if err != nil {
				t.Fatal(err)
			}
			p.vm.guest.Refuse(errors.New("a second stream"))
			if err := s.relayDNS(t.Context()); err != nil {
				t.Fatal(err)
			}
			_ = conn.Close()
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.empty(t)
		if _, err := s.Wire(t.Context(), resolv); err == nil {
			t.Fatal("a sandbox that has ended was wired")
		}
	}
}

// A stream that could not be opened is tried again by the next change.
func TestRelayIsTriedAgain(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := p.mustStart(t)
	defer func() { _ = s.Close(context.Background()) }()
	p.vm.guest.Refuse(fmt.Errorf("nobody listens"))
	if err := s.relayDNS(t.Context()); err == nil {
		t.Fatal("it was opened")
	}
	p.vm.guest.Refuse(nil)
	if err := s.relayDNS(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.vm.guest.Any(stream.DNS); err != nil {
		t.Fatal(err)
	}
}
