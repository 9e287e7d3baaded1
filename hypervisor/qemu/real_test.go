package qemu

import (
	"bufio"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/hypervisor/hybridvsock"
)

// real is a VM of the real QEMU with the guest of the tests in it.
type real struct {
	hypervisor.VM
	t       *testing.T
	config  hypervisor.Config
	vsock   int // PID of the vsock device
	guest   net.Conn
	answers *bufio.Reader
}

// realConfig returns a VM's configuration, or skips the test with the reason
// why none can run here.
func realConfig(t *testing.T) (Options, hypervisor.Config) {
	t.Helper()
	guest := os.Getenv("NANOCLAW_GUEST")
	if guest == "" {
		t.Skip("NANOCLAW_GUEST does not name the folder of a built guest")
	}
	kernel := filepath.Join(guest, "vmlinux")
	if _, err := os.Stat(kernel); err != nil {
		t.Skip("no guest kernel: ", err)
	}
	o := Options{Accel: TCG}
	if os.Getenv("NANOCLAW_TEST_ACCEL") == string(KVM) {
		o.Accel = KVM
	}
	for name, path := range map[string]*string{"qemu-system-x86_64": &o.Binary, "vhost-device-vsock": &o.VsockBinary} {
		found, err := exec.LookPath(name)
		if err != nil {
			t.Skip(err)
		}
		*path = found
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
	image := filepath.Join(dir, "guest.img")
	writeImage(t, image, self)
	return o, hypervisor.Config{
		ID: "test", Dir: dir,
		Kernel: kernel, Image: image, Cmdline: []string{"init=/init", "nanoclaw_test_guest=1"},
		CPUs: 1, Memory: 256 << 20, CID: 3,
		Console: filepath.Join(dir, "console.log"),
	}
}

// boot starts a VM and waits for its guest.
func boot(t *testing.T, change func(*hypervisor.Config)) *real {
	t.Helper()
	o, c := realConfig(t)
	r := &real{t: t, config: c}
	c.StartProcess = func(cmd *exec.Cmd) error {
		err := cmd.Start()
		if err == nil && cmd.Path == o.VsockBinary {
			r.vsock = cmd.Process.Pid
		}
		return err
	}
	if change != nil {
		change(&c)
	}
	l, err := hybridvsock.Listen(hypervisor.VsockPath(c.Dir), hostPort)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	r.VM, err = New(o).Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	started := time.Since(began)
	t.Cleanup(func() {
		r.Kill()
		<-r.Done()
		if t.Failed() {
			t.Logf("console:\n%s", r.console())
		}
	})
	if err := l.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		t.Fatal(err)
	}
	r.guest, err = l.Accept()
	if err != nil {
		r.Kill()
		<-r.Done()
		t.Fatalf("the guest did not call: %v; %+v", err, r.Exit())
	}
	t.Cleanup(func() { _ = r.guest.Close() })
	t.Logf("start %v, guest after %v", started.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	r.answers = bufio.NewReader(r.guest)
	if got := r.answer(); got != "hello" {
		t.Fatalf("the guest said %q", got)
	}
	return r
}

func (r *real) console() string {
	b, err := os.ReadFile(r.config.Console)
	if err != nil {
		r.t.Error(err)
	}
	if len(b) > 8<<10 {
		b = b[len(b)-8<<10:]
	}
	return string(b)
}

func (r *real) tell(command string) {
	r.t.Helper()
	if _, err := fmt.Fprintln(r.guest, command); err != nil {
		r.t.Fatal(err)
	}
}

func (r *real) answer() string {
	r.t.Helper()
	_ = r.guest.SetReadDeadline(time.Now().Add(60 * time.Second))
	line, err := r.answers.ReadString('\n')
	if err != nil {
		r.t.Fatalf("the guest does not answer: %v", err)
	}
	return strings.TrimSpace(line)
}

// ended waits for the VM's end and checks that it left nothing.
func (r *real) ended(cause hypervisor.Cause) hypervisor.Exit {
	r.t.Helper()
	select {
	case <-r.Done():
	case <-time.After(30 * time.Second):
		r.t.Fatal("the VM goes on")
	}
	if got := r.Exit(); got.Cause != cause {
		r.t.Fatalf("ended by %q (%s), want %q", got.Cause, got.Detail, cause)
	}
	for _, pid := range []int{r.PID(), r.vsock} {
		if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
			r.t.Errorf("process %d is still there: %v", pid, err)
		}
	}
	for _, name := range []string{hypervisor.VsockPath(r.config.Dir), filepath.Join(r.config.Dir, vsockControl)} {
		if _, err := os.Lstat(name); !errors.Is(err, os.ErrNotExist) {
			r.t.Errorf("%s is still there: %v", name, err)
		}
	}
	if _, err := r.Dial(context.Background(), guestPort); !errors.Is(err, hypervisor.ErrStopped) {
		r.t.Errorf("Dial after the end: %v", err)
	}
	if err := r.Pause(context.Background()); !errors.Is(err, hypervisor.ErrStopped) {
		r.t.Errorf("Pause after the end: %v", err)
	}
	return r.Exit()
}

func TestRealPowerOff(t *testing.T) {
	r := boot(t, nil)
	r.tell("poweroff")
	r.ended(hypervisor.CauseGuest)
	if !strings.Contains(r.console(), readyLine) {
		t.Errorf("the console lacks what the guest printed:\n%s", r.console())
	}
}

func TestRealReset(t *testing.T) {
	r := boot(t, nil)
	r.tell("reset")
	r.ended(hypervisor.CauseReset)
}

func TestRealPanic(t *testing.T) {
	r := boot(t, nil)
	r.tell("panic")
	r.ended(hypervisor.CausePanic)
	if !strings.Contains(r.console(), "Kernel panic") {
		t.Errorf("the console lacks the panic:\n%s", r.console())
	}
}

func TestRealKilledVMM(t *testing.T) {
	r := boot(t, nil)
	if err := unix.Kill(r.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := r.ended(hypervisor.CauseFailed); !strings.Contains(e.Detail, "qemu: signal: killed") {
		t.Errorf("detail %q", e.Detail)
	}
}

func TestRealKilledVsock(t *testing.T) {
	r := boot(t, nil)
	if err := unix.Kill(r.vsock, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := r.ended(hypervisor.CauseFailed); !strings.Contains(e.Detail, "vhost-device-vsock: signal: killed") {
		t.Errorf("detail %q", e.Detail)
	}
}

func TestRealStop(t *testing.T) {
	r := boot(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := r.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	r.ended(hypervisor.CauseStopped)
	if err := r.Stop(ctx); err != nil {
		t.Errorf("stopping again: %v", err)
	}
}

func TestRealStopByForce(t *testing.T) {
	r := boot(t, nil)
	// A stopped process answers nothing.
	if err := unix.Kill(r.PID(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := r.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	r.ended(hypervisor.CauseStopped)
}

func TestRealDial(t *testing.T) {
	r := boot(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := r.Dial(ctx, guestPort)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "echo"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "echo" {
		t.Fatalf("got %q, %v", got, err)
	}
	if _, err := r.Dial(ctx, guestPort+1); !errors.Is(err, hybridvsock.ErrRefused) {
		t.Errorf("a port without a listener: %v", err)
	}
}

// A guest that is still booting is waited for: nobody but the guest refuses.
func TestRealDialBootingGuest(t *testing.T) {
	o, c := realConfig(t)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	v, err := New(o).Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { v.Kill(); <-v.Done() }()
	conn, err := v.Dial(ctx, guestPort)
	for errors.Is(err, hybridvsock.ErrRefused) {
		time.Sleep(dialInterval)
		conn, err = v.Dial(ctx, guestPort)
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func TestRealDialEndsWithTheVM(t *testing.T) {
	o, c := realConfig(t)
	v, err := New(o).Start(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := v.Dial(context.Background(), guestPort)
		ended <- err
	}()
	v.Kill()
	<-v.Done()
	if err := <-ended; !errors.Is(err, hypervisor.ErrStopped) {
		t.Fatalf("got %v, want ErrStopped", err)
	}
}

func TestRealPauseAndResume(t *testing.T) {
	r := boot(t, nil)
	ctx := context.Background()
	uptime := func() float64 {
		r.tell("uptime")
		s, _, _ := strings.Cut(r.answer(), " ")
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	before := uptime()
	for range 2 {
		if err := r.Pause(ctx); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(3 * time.Second)
	for range 2 {
		if err := r.Resume(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if took := uptime() - before; took > 2 {
		t.Errorf("%v s went by in a guest that was paused for 3 s", took)
	}
}

func TestRealConsoleIsBounded(t *testing.T) {
	r := boot(t, nil)
	r.tell("flood")
	if got := r.answer(); got != "flooded" {
		t.Fatal(got)
	}
	r.tell("poweroff")
	r.ended(hypervisor.CauseGuest)
	st, err := os.Stat(r.config.Console)
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() > hypervisor.ConsoleLimit || st.Size() < hypervisor.ConsoleLimit/2 {
		t.Errorf("4 MiB of output left a file of %d bytes", st.Size())
	}
	if !strings.Contains(r.console(), "END OF FLOOD") {
		t.Error("the end of the output is not in the file")
	}
}

func TestRealTwoCPUs(t *testing.T) {
	r := boot(t, func(c *hypervisor.Config) { c.CPUs = 2 })
	r.tell("poweroff")
	r.ended(hypervisor.CauseGuest)
}

// tap makes a tap device, as a NIC called id.
func tap(t *testing.T, id string, last byte, mtu int) hypervisor.NIC {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("no tap devices here: ", err)
	}
	req, err := unix.NewIfreq("nctest%d")
	if err != nil {
		t.Fatal(err)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		t.Skip("no tap devices here: ", err)
	}
	f := os.NewFile(uintptr(fd), "tap")
	t.Cleanup(func() { _ = f.Close() })
	return hypervisor.NIC{ID: id, MAC: net.HardwareAddr{2, 0, 0, 0, 0, last}, MTU: mtu, Tap: f}
}

func TestRealNICs(t *testing.T) {
	cold := tap(t, "cold", 1, 1400)
	r := boot(t, func(c *hypervisor.Config) { c.NICs = []hypervisor.NIC{cold} })
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	// sees waits until the guest has exactly these NICs.
	sees := func(want string) {
		t.Helper()
		began := time.Now()
		for {
			r.tell("nics")
			got := r.answer()
			if got == want {
				t.Logf("%q after %v", want, time.Since(began).Round(time.Millisecond))
				return
			}
			if time.Since(began) > 20*time.Second {
				t.Fatalf("the guest has %q, want %q", got, want)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	sees("02:00:00:00:00:01/1400")
	hot := tap(t, "hot", 2, 0)
	if err := r.AddNIC(ctx, hot); err != nil {
		t.Fatal(err)
	}
	sees("02:00:00:00:00:01/1400 02:00:00:00:00:02/1500")
	if err := r.AddNIC(ctx, hot); err == nil {
		t.Error("a second NIC of the same name was added")
	}
	began := time.Now()
	if err := r.RemoveNIC(ctx, "cold"); err != nil {
		t.Fatal(err)
	}
	t.Logf("removed after %v", time.Since(began).Round(time.Millisecond))
	sees("02:00:00:00:00:02/1500")
	if err := r.RemoveNIC(ctx, "cold"); err == nil {
		t.Error("a NIC was removed twice")
	}
	for i := range sparePorts {
		if err := r.AddNIC(ctx, tap(t, fmt.Sprintf("more%d", i), byte(3+i), 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.AddNIC(ctx, tap(t, "toomany", 9, 0)); err == nil || !strings.Contains(err.Error(), "slots") {
		t.Errorf("one NIC too many: %v", err)
	}
}

func TestRealWrongKernel(t *testing.T) {
	o, c := realConfig(t)
	c.Kernel = c.Image
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, err := New(o).Start(ctx, c)
	if err == nil || !strings.Contains(err.Error(), "kernel") {
		t.Fatalf("got %v", err)
	}
	t.Log(err)
}
