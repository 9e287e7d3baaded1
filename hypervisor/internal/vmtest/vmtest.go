// Package vmtest tests drivers against the real hypervisor: the same tests for
// each, with a guest that is the test binary itself as PID 1.
//
// It is for tests of the packages below hypervisor/ and for nothing else. It
// needs a built guest kernel (NANOCLAW_GUEST names its folder) and a test
// binary that is linked statically. What is particular to one driver is tested
// beside it.
package vmtest

import (
	"bufio"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/hypervisor/hybridvsock"
)

// patience bounds each wait. A guest under nested emulation takes some seconds
// to boot, on a busy machine ten times as many.
const patience = 2 * time.Minute

// Driver is a driver under test.
type Driver struct {
	hypervisor.Hypervisor
	// Helpers are the programs that a VM runs beside the VMM, by name. The end
	// of one ends the VM.
	Helpers []string
	// SpareNICs is how many NICs can be plugged in, if that is bounded.
	SpareNICs int
}

// Program finds a program on PATH, or skips the test.
func Program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skip(err)
	}
	return path
}

// KVM reports whether whoever runs the tests says that this machine's KVM boots
// guests; /dev/kvm alone does not tell.
func KVM() bool { return os.Getenv("NANOCLAW_TEST_ACCEL") == "kvm" }

// Config returns a VM's configuration, or skips the test with the reason why
// none can run here.
func Config(t *testing.T) hypervisor.Config {
	t.Helper()
	guest := os.Getenv("NANOCLAW_GUEST")
	if guest == "" {
		t.Skip("NANOCLAW_GUEST does not name the folder of a built guest")
	}
	kernel := filepath.Join(guest, "vmlinux")
	if _, err := os.Stat(kernel); err != nil {
		t.Skip("no guest kernel: ", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if f.Section(".interp") != nil {
		t.Skip("the test binary is the guest's init too and must be static: build it with CGO_ENABLED=0")
	}
	// t.TempDir's paths are too long for sockets.
	dir, err := os.MkdirTemp("", "vm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	vm := filepath.Join(dir, "vm")
	if err := os.Mkdir(vm, 0o700); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, "guest.img")
	writeImage(t, image, self)
	return hypervisor.Config{
		ID: "test", Dir: vm,
		Kernel: kernel, Image: image, Cmdline: []string{"init=/init", guestMark + "=1"},
		CPUs: 1, Memory: 256 << 20, CID: 3,
		Console: filepath.Join(dir, "console.log"),
	}
}

// Deadline returns a context that ends with the tests' patience.
func Deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// processes notes what a driver starts.
type processes struct {
	mu  sync.Mutex
	pid map[string]int
}

func (p *processes) start(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid == nil {
		p.pid = map[string]int{}
	}
	p.pid[filepath.Base(cmd.Path)] = cmd.Process.Pid
	return nil
}

// gone checks that nothing of it is left.
func (p *processes) gone(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, pid := range p.pid {
		if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
			t.Errorf("%s, process %d, is still there: %v", name, pid, err)
		}
	}
}

// VM is a running VM with the guest of the tests in it.
type VM struct {
	hypervisor.VM
	t       *testing.T
	config  hypervisor.Config
	started processes
	guest   net.Conn
	answers *bufio.Reader
}

// Boot starts a VM and waits for its guest's call.
func Boot(t *testing.T, d hypervisor.Hypervisor, change func(*hypervisor.Config)) *VM {
	t.Helper()
	v := &VM{t: t, config: Config(t)}
	v.config.StartProcess = v.started.start
	if change != nil {
		change(&v.config)
	}
	l, err := hybridvsock.Listen(hypervisor.VsockPath(v.config.Dir), hostPort)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	began := time.Now()
	v.VM, err = d.Start(Deadline(t), v.config)
	if err != nil {
		t.Fatal(err)
	}
	started := time.Since(began)
	t.Cleanup(func() {
		v.Kill()
		<-v.Done()
		if t.Failed() {
			t.Logf("%+v; console:\n%s", v.Exit(), v.Console())
		}
	})
	if err := l.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	v.guest, err = l.Accept()
	if err != nil {
		v.Kill()
		<-v.Done()
		t.Fatalf("the guest did not call: %v; %+v", err, v.Exit())
	}
	t.Cleanup(func() { _ = v.guest.Close() })
	t.Logf("start %v, guest after %v", started.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	v.answers = bufio.NewReader(v.guest)
	if got := v.Answer(); got != "hello" {
		t.Fatalf("the guest said %q", got)
	}
	return v
}

// Console returns the end of what the guest printed.
func (v *VM) Console() string {
	b, err := os.ReadFile(v.config.Console)
	if err != nil {
		v.t.Error(err)
	}
	if len(b) > 8<<10 {
		b = b[len(b)-8<<10:]
	}
	return string(b)
}

// Tell gives the guest a command.
func (v *VM) Tell(command string) {
	v.t.Helper()
	if _, err := fmt.Fprintln(v.guest, command); err != nil {
		v.t.Fatal(err)
	}
}

// Answer returns the guest's next line.
func (v *VM) Answer() string {
	v.t.Helper()
	_ = v.guest.SetReadDeadline(time.Now().Add(patience))
	line, err := v.answers.ReadString('\n')
	if err != nil {
		v.t.Fatalf("the guest does not answer: %v", err)
	}
	return strings.TrimSpace(line)
}

// Ask gives the guest a command and returns its answer.
func (v *VM) Ask(command string) string {
	v.t.Helper()
	v.Tell(command)
	return v.Answer()
}

// Ended waits for the VM's end and checks that it left nothing.
func (v *VM) Ended(cause hypervisor.Cause) hypervisor.Exit {
	v.t.Helper()
	select {
	case <-v.Done():
	case <-time.After(patience):
		v.t.Fatal("the VM goes on")
	}
	if got := v.Exit(); got.Cause != cause || got.At.IsZero() {
		v.t.Fatalf("ended by %q (%s) at %v, want %q", got.Cause, got.Detail, got.At, cause)
	}
	v.started.gone(v.t)
	NothingIn(v.t, v.config.Dir)
	if _, err := v.Dial(context.Background(), guestPort); !errors.Is(err, hypervisor.ErrStopped) {
		v.t.Errorf("Dial after the end: %v", err)
	}
	if err := v.Pause(context.Background()); !errors.Is(err, hypervisor.ErrStopped) {
		v.t.Errorf("Pause after the end: %v", err)
	}
	return v.Exit()
}

// NothingIn checks that a VM's folder is empty.
func NothingIn(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("%s is left in the VM's folder", e.Name())
	}
}
