package qemu

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/hypervisor/internal/vmtest"
	"github.com/nanoclaw/nanoclaw/internal/process"
)

// bench starts VMs of the fakes, and knows every process that was started.
type bench struct {
	t      *testing.T
	config hypervisor.Config
	driver *QEMU
	mu     sync.Mutex
	pids   []int
}

func newBench(t *testing.T, qemu, vsock string) *bench {
	t.Helper()
	// t.TempDir's paths are too long for sockets.
	dir, err := os.MkdirTemp("", "vm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b := &bench{t: t, config: goodConfig()}
	b.driver = New(Options{Binary: fakeBinary(t, qemu), VsockBinary: fakeBinary(t, vsock), Accel: TCG})
	b.config.Dir = dir
	b.config.Kernel = filepath.Join(dir, "vmlinux")
	vmtest.FakeKernel(t, b.config.Kernel)
	b.config.StartProcess = func(cmd *exec.Cmd) error {
		err := cmd.Start()
		if err == nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.pids = append(b.pids, cmd.Process.Pid)
		}
		return err
	}
	return b
}

func (b *bench) start() hypervisor.VM {
	b.t.Helper()
	v, err := b.driver.Start(context.Background(), b.config)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { v.Kill(); <-v.Done() })
	return v
}

// nothingLeft checks processes, sockets and descriptors.
func (b *bench) nothingLeft() {
	b.t.Helper()
	for _, pid := range b.pids {
		if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
			b.t.Errorf("process %d is still there", pid)
		}
	}
	left, err := filepath.Glob(filepath.Join(b.config.Dir, "*.sock*"))
	if err != nil || len(left) > 0 {
		b.t.Errorf("left in the folder: %q, %v", left, err)
	}
}

func descriptorCount(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

func TestExitCauses(t *testing.T) {
	for behaviour, want := range map[string]hypervisor.Exit{
		"qemu-poweroff": {Cause: hypervisor.CauseGuest},
		"qemu-reset":    {Cause: hypervisor.CauseReset},
		"qemu-panic":    {Cause: hypervisor.CausePanic},
		"qemu-lingers":  {Cause: hypervisor.CauseGuest},
		"qemu-unasked":  {Cause: hypervisor.CauseFailed, Detail: "qemu ended unasked"},
		"qemu-crash":    {Cause: hypervisor.CauseFailed, Detail: "exit status 134: qemu: assertion failed"},
		"qemu-garbage":  {Cause: hypervisor.CauseFailed, Detail: "signal: killed"},
	} {
		t.Run(behaviour, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, behaviour, "vsock-good")
			v := b.start()
			if err := v.Resume(context.Background()); err != nil && !errors.Is(err, hypervisor.ErrStopped) {
				t.Fatal(err)
			}
			select {
			case <-v.Done():
			case <-time.After(20 * time.Second):
				t.Fatal("the VM goes on")
			}
			got := v.Exit()
			if got.Cause != want.Cause || !strings.Contains(got.Detail, want.Detail) {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if err := v.Pause(context.Background()); !errors.Is(err, hypervisor.ErrStopped) {
				t.Errorf("Pause after the end: %v", err)
			}
			b.nothingLeft()
		})
	}
}

func TestAVsockDeviceThatDiesEndsTheVM(t *testing.T) {
	b := newBench(t, "qemu-good", "vsock-dies")
	v := b.start()
	<-v.Done()
	if e := v.Exit(); e.Cause != hypervisor.CauseFailed || !strings.Contains(e.Detail, "out of queues") {
		t.Errorf("got %+v", e)
	}
	b.nothingLeft()
}

func TestStop(t *testing.T) {
	for _, behaviour := range []string{"qemu-good", "qemu-wedged"} {
		t.Run(behaviour, func(t *testing.T) {
			b := newBench(t, behaviour, "vsock-good")
			before := descriptorCount(t)
			v := b.start()
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			if err := v.Stop(ctx); err != nil {
				t.Fatal(err)
			}
			if e := v.Exit(); e.Cause != hypervisor.CauseStopped {
				t.Errorf("got %+v", e)
			}
			b.nothingLeft()
			if after := descriptorCount(t); after > before {
				t.Errorf("%d descriptors before, %d after", before, after)
			}
			if err := v.Stop(context.Background()); err != nil {
				t.Errorf("stopping again: %v", err)
			}
		})
	}
}

func TestAFailedStartLeavesNothing(t *testing.T) {
	for _, c := range []struct{ qemu, vsock, want string }{
		{"qemu-fails", "vsock-good", "Could not access KVM kernel module"},
		{"qemu-mute", "vsock-good", context.DeadlineExceeded.Error()},
		{"qemu-good", "vsock-fails", "no room for a socket"},
		{"qemu-good", "vsock-mute", context.DeadlineExceeded.Error()},
	} {
		t.Run(c.qemu+" "+c.vsock, func(t *testing.T) {
			b := newBench(t, c.qemu, c.vsock)
			before := descriptorCount(t)
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			_, err := b.driver.Start(ctx, b.config)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if len(err.Error()) > 2*process.MaxWords {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			b.nothingLeft()
			if after := descriptorCount(t); after > before {
				t.Errorf("%d descriptors before, %d after", before, after)
			}
		})
	}
}

func TestStartNamesAMissingProgram(t *testing.T) {
	b := newBench(t, "qemu-good", "vsock-good")
	b.driver = New(Options{Binary: "/nowhere/qemu", VsockBinary: b.driver.options.VsockBinary})
	if _, err := b.driver.Start(context.Background(), b.config); err == nil || !strings.Contains(err.Error(), "/nowhere/qemu") {
		t.Fatalf("got %v", err)
	}
	b.nothingLeft()
}

func TestNICSlots(t *testing.T) {
	var s nics
	s.init([]hypervisor.NIC{goodNIC()})
	if _, err := s.reserve("eth0"); err == nil {
		t.Error("a name was given twice")
	}
	for _, id := range []string{"a", "b", "c", "d"} {
		n, err := s.reserve(id)
		if err != nil {
			t.Fatal(err)
		}
		s.settle(n)
	}
	if _, err := s.reserve("e"); err == nil {
		t.Error("there is a slot too many")
	}
	n, err := s.acquire("b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.acquire("b"); err == nil {
		t.Error("one NIC is removed twice at once")
	}
	// Events of others, twice, and no events at all do no harm.
	for _, data := range []string{`{"device":"nic-x"}`, `{"path":"/x"}`, `[]`, `{"device":"nic-b"}`, `{"device":"nic-b"}`} {
		s.deleted([]byte(data))
	}
	<-n.gone
	s.free("b", n)
	if _, err := s.reserve("e"); err != nil {
		t.Error(err)
	}
}
