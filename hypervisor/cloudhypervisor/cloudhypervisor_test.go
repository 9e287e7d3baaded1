package cloudhypervisor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/hypervisor/internal/vmtest"
)

// host is where a test's VM runs.
type host struct {
	t      *testing.T
	config hypervisor.Config
	log    string
	cmd    *exec.Cmd
}

func newHost(t *testing.T, mode string) *host {
	t.Helper()
	// Not t.TempDir, whose paths are too long for sockets.
	dir, err := os.MkdirTemp("", "ch")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	document, err := os.ReadFile("api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, log: filepath.Join(dir, "log")}
	files, err := os.MkdirTemp("", "chf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(files) })
	vmtest.FakeKernel(t, filepath.Join(files, "vmlinux"))
	if err := os.WriteFile(filepath.Join(files, "guest.img"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	share, err := net.Listen("unix", filepath.Join(files, "fs.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = share.Close() })
	h.config = hypervisor.Config{
		ID: "test", Dir: dir, Kernel: filepath.Join(files, "vmlinux"), Image: filepath.Join(files, "guest.img"),
		Cmdline: []string{"nanoclaw.word=1"}, CPUs: 2, Memory: 256 << 20,
		FSSocket: filepath.Join(files, "fs.sock"), FSTag: "share", CID: 3,
		Console: filepath.Join(dir, "console"),
		StartProcess: func(c *exec.Cmd) error {
			c.Env = append(c.Env, fakeMode+"="+mode, fakeLog+"="+h.log, "NANOCLAW_FAKE_OPENAPI="+string(document))
			h.cmd = c
			return c.Start()
		},
	}
	return h
}

// start starts the VM, which the test must see end.
func (h *host) start() hypervisor.VM {
	h.t.Helper()
	v, err := New(Options{Binary: os.Args[0]}).Start(deadline(h.t), h.config)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { v.Kill(); <-v.Done() })
	return v
}

func (h *host) asked() string {
	h.t.Helper()
	b, err := os.ReadFile(h.log)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(b)
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// ended waits for the VM's end.
func ended(t *testing.T, v hypervisor.VM) hypervisor.Exit {
	t.Helper()
	select {
	case <-v.Done():
		return v.Exit()
	case <-time.After(20 * time.Second):
		t.Fatal("the VM did not end")
		return hypervisor.Exit{}
	}
}

// tap is a pipe in a tap's place: what the VMM writes into it can be read.
func tap(t *testing.T, id string) (hypervisor.NIC, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	return hypervisor.NIC{ID: id, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, MTU: 1500, Tap: w}, r
}

func arrived(t *testing.T, r *os.File) {
	t.Helper()
	b := make([]byte, 4)
	if _, err := io.ReadFull(r, b); err != nil || string(b) != "here" {
		t.Fatalf("the tap got %q, %v", b, err)
	}
}

func TestStartMakesItsCallsInOrder(t *testing.T) {
	h := newHost(t, "")
	nic, r := tap(t, "eth0")
	h.config.NICs = []hypervisor.NIC{nic}
	v := h.start()
	arrived(t, r)
	if v.PID() != h.cmd.Process.Pid {
		t.Errorf("PID %d, want %d", v.PID(), h.cmd.Process.Pid)
	}
	var calls []string
	for line := range strings.Lines(h.asked()) {
		calls = append(calls, strings.Join(strings.Fields(line)[1:3], " "))
	}
	want := "vmm.ping files=0, vm.create files=0, vm.add-net files=1, vm.boot files=0"
	if got := strings.Join(calls, ", "); got != want {
		t.Errorf("asked %s\nwant %s", got, want)
	}
	for _, part := range []string{
		`"cmdline":"console=hvc0 loglevel=5 panic=-1 root=/dev/vda ro rootfstype=erofs nanoclaw.word=1"`,
		`"shared":true`, `"readonly":true`, `"image_type":"Raw"`, `"pvpanic":true`, `"serial":{"mode":"Off"}`,
	} {
		if !strings.Contains(h.asked(), part) {
			t.Errorf("nothing asked holds %s:\n%s", part, h.asked())
		}
	}
}

func TestMemoryIsPrivateWithoutAShare(t *testing.T) {
	h := newHost(t, "")
	h.config.FSSocket, h.config.FSTag = "", ""
	h.start()
	if !strings.Contains(h.asked(), `"shared":false`) || strings.Contains(h.asked(), `"fs"`) {
		t.Error(h.asked())
	}
}

// openFiles lists the descriptors of this process, without those of the runtime.
func openFiles(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && !strings.HasPrefix(target, "anon_inode") {
			out = append(out, e.Name()+"="+target)
		}
	}
	return strings.Join(out, "\n")
}

func TestAFailedStartLeavesNothing(t *testing.T) {
	for mode, want := range map[string]string{
		"dies at start":          "no such device: /dev/kvm",
		"old":                    "it is \"51.1.0\"; install version 52 or later",
		"wedged at vmm.ping":     "vmm.ping",
		"garbage at vmm.ping":    "decode the answer",
		"too much at vmm.ping":   "a body of",
		"hangs up at vm.create":  "vm.create",
		"refuses vm.create":      "vm.create: status 500: Error from API",
		"refuses vm.add-net":     "NIC eth0: vm.add-net: status 500",
		"refuses vm.boot":        "Error from API: The VM could not boot: Cannot open disk path",
		"dies at vm.boot":        "thread 'vmm' gave up",
		"wedged at vm.boot":      "vm.boot",
		"wedged at vm.add-net":   "vm.add-net",
		"hangs up at vm.add-net": "vm.add-net",
	} {
		t.Run(mode, func(t *testing.T) {
			h := newHost(t, mode)
			nic, _ := tap(t, "eth0")
			h.config.NICs = []hypervisor.NIC{nic}
			files, goroutines := openFiles(t), runtime.NumGoroutine()
			ctx := deadline(t)
			if strings.HasPrefix(mode, "wedged") {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 2*time.Second)
				defer cancel()
			}
			v, err := New(Options{Binary: os.Args[0]}).Start(ctx, h.config)
			if err == nil {
				v.Kill()
				t.Fatal("Start succeeded")
			}
			if !strings.Contains(err.Error(), want) {
				t.Errorf("error %.300q does not hold %q", err, want)
			}
			if len(err.Error()) > 12<<10 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			if err := unix.Kill(h.cmd.Process.Pid, 0); !errors.Is(err, unix.ESRCH) {
				t.Errorf("the process is still there: %v", err)
			}
			for range 100 {
				if openFiles(t) == files && runtime.NumGoroutine() <= goroutines {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			if got := openFiles(t); got != files {
				t.Errorf("open files before:\n%s\nafter:\n%s", files, got)
			}
			if got := runtime.NumGoroutine(); got > goroutines {
				t.Errorf("%d goroutines, %d before", got, goroutines)
			}
			left, _ := filepath.Glob(filepath.Join(h.config.Dir, "*.sock"))
			if len(left) > 0 {
				t.Errorf("left %v", left)
			}
		})
	}
}

// A version that does not know an option ends without having answered a call.
func TestATooOldVersionIsNamed(t *testing.T) {
	for mode, want := range map[string]string{
		"knows no --no-shutdown": `it is "v51.2.0"; install version 52 or later`,
		"dies at start":          "no such device: /dev/kvm",
	} {
		t.Setenv(fakeMode, mode)
		h := newHost(t, mode)
		_, err := New(Options{Binary: os.Args[0]}).Start(deadline(t), h.config)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "unexpected argument") {
			t.Errorf("%s: got %v", mode, err)
		}
	}
}

func TestAStarterThatFailsLeavesNothing(t *testing.T) {
	h := newHost(t, "")
	fail := errors.New("no cgroup")
	h.config.StartProcess = func(*exec.Cmd) error { return fail }
	files := openFiles(t)
	if _, err := New(Options{Binary: "/ch"}).Start(deadline(t), h.config); !errors.Is(err, fail) {
		t.Fatalf("got %v", err)
	}
	if got := openFiles(t); got != files {
		t.Errorf("open files before:\n%s\nafter:\n%s", files, got)
	}
	if _, err := os.Stat(apiSocket(h.config.Dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestCauses(t *testing.T) {
	for name, test := range map[string]struct {
		port uint32
		want hypervisor.Cause
		text string
	}{
		"power-off":  {portPowerOff, hypervisor.CauseGuest, ""},
		"fault":      {portFault, hypervisor.CauseFailed, "a fault in one of its threads: thread 'vcpu0' panicked"},
		"panic":      {portPanic, hypervisor.CausePanic, ""},
		"reset":      {portReset, hypervisor.CauseReset, ""},
		"crash":      {portCrash, hypervisor.CauseFailed, "VmmThread failed"},
		"garbage":    {portGarbage, hypervisor.CauseFailed, "event monitor"},
		"huge event": {portHugeEvent, hypervisor.CauseFailed, "an event of more than"},
	} {
		t.Run(name, func(t *testing.T) {
			v := newHost(t, "").start()
			_, _ = v.Dial(deadline(t), test.port)
			got := ended(t, v)
			if got.Cause != test.want || !strings.Contains(got.Detail, test.text) || (test.text == "") != (got.Detail == "") {
				t.Errorf("got %+v", got)
			}
			if len(got.Detail) > 4<<10 || got.At.IsZero() {
				t.Errorf("detail of %d bytes, at %v", len(got.Detail), got.At)
			}
		})
	}
}

func TestAKilledVMMIsAFailure(t *testing.T) {
	h := newHost(t, "")
	v := h.start()
	if err := unix.Kill(v.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := ended(t, v); got.Cause != hypervisor.CauseFailed || !strings.Contains(got.Detail, "killed") {
		t.Errorf("got %+v", got)
	}
	left, _ := filepath.Glob(filepath.Join(h.config.Dir, "*.sock"))
	if len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestAVMMThatOutlivesItsGuestIsKilled(t *testing.T) {
	v := newHost(t, "lingers").start()
	_, _ = v.Dial(deadline(t), portPowerOff)
	if got := ended(t, v); got.Cause != hypervisor.CauseGuest {
		t.Errorf("got %+v", got)
	}
}

func TestAVMMThatDoesNotAnswerAfterAPowerOffHasFailed(t *testing.T) {
	v := newHost(t, "hangs up at vm.info").start()
	_, _ = v.Dial(deadline(t), portPowerOff)
	if got := ended(t, v); got.Cause != hypervisor.CauseFailed {
		t.Errorf("got %+v", got)
	}
}

func TestStop(t *testing.T) {
	for mode, patience := range map[string]time.Duration{
		"": 10 * time.Second, "slow at vmm.shutdown": 10 * time.Second,
		"wedged at vmm.shutdown": 300 * time.Millisecond, "lingers": 300 * time.Millisecond,
		"refuses vmm.shutdown": 10 * time.Second,
	} {
		t.Run(mode, func(t *testing.T) {
			v := newHost(t, mode).start()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := v.Stop(ctx); err != nil {
				t.Fatal(err)
			}
			if got := ended(t, v); got.Cause != hypervisor.CauseStopped {
				t.Errorf("got %+v", got)
			}
			if err := v.Stop(ctx); err != nil {
				t.Errorf("a second Stop: %v", err)
			}
		})
	}
}

func TestCallsAfterTheEnd(t *testing.T) {
	v := newHost(t, "").start()
	v.Kill()
	if got := ended(t, v); got.Cause != hypervisor.CauseStopped {
		t.Errorf("got %+v", got)
	}
	ctx := deadline(t)
	nic, _ := tap(t, "eth1")
	_, dialed := v.Dial(ctx, portEcho)
	for name, err := range map[string]error{
		"Dial": dialed, "AddNIC": v.AddNIC(ctx, nic), "RemoveNIC": v.RemoveNIC(ctx, "eth1"),
		"Pause": v.Pause(ctx), "Resume": v.Resume(ctx),
	} {
		if !errors.Is(err, hypervisor.ErrStopped) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDial(t *testing.T) {
	v := newHost(t, "").start()
	conn, err := v.Dial(deadline(t), portEcho)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != "ping" {
		t.Fatalf("got %q, %v", b, err)
	}
}

func TestPauseAndResumeTwice(t *testing.T) {
	v := newHost(t, "").start()
	for _, f := range []func(context.Context) error{v.Pause, v.Pause, v.Resume, v.Resume, v.Pause} {
		if err := f(deadline(t)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestGrow(t *testing.T) {
	h := newHost(t, "")
	h.config.MaxCPUs, h.config.MaxMemory = h.config.CPUs+1, h.config.Memory+2*hypervisor.GrowthStep+1
	v := h.start()
	larger := hypervisor.Size{CPUs: h.config.MaxCPUs, Memory: h.config.Memory + 2*hypervisor.GrowthStep}
	for range 2 {
		if err := v.Grow(deadline(t), larger); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.Grow(deadline(t), hypervisor.Size{CPUs: h.config.CPUs, Memory: h.config.Memory}); err == nil {
		t.Error("it has become smaller")
	}
	if err := v.Grow(deadline(t), hypervisor.Size{CPUs: larger.CPUs, Memory: larger.Memory + hypervisor.GrowthStep}); err == nil {
		t.Error("it has become larger than it has room for")
	}
	// Without room it is what it was started as.
	fixed := newHost(t, "").start()
	if err := fixed.Grow(deadline(t), larger); err == nil {
		t.Error("a VM without room has grown")
	}
}

func TestANICIsPluggedAndTakenOut(t *testing.T) {
	v := newHost(t, "").start()
	nic, r := tap(t, "eth1")
	if err := v.AddNIC(deadline(t), nic); err != nil {
		t.Fatal(err)
	}
	arrived(t, r)
	begun := time.Now()
	if err := v.RemoveNIC(deadline(t), "eth1"); err != nil {
		t.Fatal(err)
	}
	if time.Since(begun) < 50*time.Millisecond {
		t.Error("RemoveNIC did not wait for the guest")
	}
}

func TestANICsNameIsUsedOnce(t *testing.T) {
	h := newHost(t, "")
	nic, _ := tap(t, "eth1")
	h.config.NICs = []hypervisor.NIC{nic}
	v := h.start()
	var refused *APIError
	if err := v.AddNIC(deadline(t), nic); !errors.As(err, &refused) || refused.Status != 500 {
		t.Errorf("a second NIC of the same name: %v", err)
	}
	if err := v.RemoveNIC(deadline(t), "eth2"); !errors.As(err, &refused) || !strings.Contains(err.Error(), "identifier: eth2") {
		t.Errorf("a NIC that is not there: %v", err)
	}
}

// The hypervisor keeps connections open, ten at most.
func TestCallsLeaveNoConnection(t *testing.T) {
	v := newHost(t, "").start()
	for range 10 {
		if err := errors.Join(v.Pause(deadline(t)), v.Resume(deadline(t))); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAGuestThatKeepsItsNIC(t *testing.T) {
	v := newHost(t, "guest keeps the device").start()
	nic, _ := tap(t, "eth1")
	if err := v.AddNIC(deadline(t), nic); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if err := v.RemoveNIC(ctx, "eth1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestCallsWaitForTheirTurn(t *testing.T) {
	v := newHost(t, "wedged at vm.info").start()
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	errs := make(chan error, 2)
	go func() { errs <- v.Pause(ctx) }()
	go func() { errs <- v.Resume(ctx) }()
	for range 2 {
		if err := <-errs; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	}
}

func TestAPIErrorIsTyped(t *testing.T) {
	v := newHost(t, "refuses vm.pause").start()
	err := v.Pause(deadline(t))
	var refused *APIError
	if !errors.As(err, &refused) || refused.Status != 500 || refused.Call != "vm.pause" || len(refused.Messages) != 3 {
		t.Errorf("got %#v", err)
	}
}

func TestConsoleIsBounded(t *testing.T) {
	h := newHost(t, "")
	v := h.start()
	_, _ = v.Dial(deadline(t), portFlood)
	ended(t, v)
	b, err := os.ReadFile(h.config.Console)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > hypervisor.ConsoleLimit {
		t.Errorf("a console of %d bytes", len(b))
	}
	if !bytes.HasPrefix(b, []byte("guest says hello\n")) || !bytes.HasSuffix(b, []byte("last words\n")) {
		t.Errorf("begins %.40q, ends %q", b, b[len(b)-40:])
	}
}

func TestCheck(t *testing.T) {
	for name, change := range map[string]func(*hypervisor.Config){
		"odd memory":   func(c *hypervisor.Config) { c.Memory++ },
		"long cmdline": func(c *hypervisor.Config) { c.Cmdline = []string{strings.Repeat("a", 2000)} },
		"small MTU": func(c *hypervisor.Config) {
			c.NICs = []hypervisor.NIC{{ID: "eth0", MAC: make(net.HardwareAddr, 6), MTU: 1000, Tap: os.Stdin}}
		},
		"NIC id": func(c *hypervisor.Config) { c.NICs = []hypervisor.NIC{{ID: "_net0"}} },
		"NIC without tap": func(c *hypervisor.Config) {
			c.NICs = []hypervisor.NIC{{ID: "eth0", MAC: make(net.HardwareAddr, 6)}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, "")
			h.config.StartProcess = func(*exec.Cmd) error { t.Error("started"); return errors.New("no") }
			change(&h.config)
			if _, err := New(Options{Binary: "/ch"}).Start(deadline(t), h.config); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestCheckVersion(t *testing.T) {
	for version, ok := range map[string]bool{
		"52.0": true, "v53.0": true, "53.0.0": true, "54.0.0-dev": true, "51.1": false, "": false, "dev": false, "-60.0": false,
	} {
		if err := checkVersion(version); (err == nil) != ok {
			t.Errorf("%q: %v", version, err)
		}
	}
}
