package bypass

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/guestagent/execgate"
	"github.com/nanoclaw/nanoclaw/test/bypass/attempts"
	"github.com/nanoclaw/nanoclaw/test/inguest"
)

// TestGuestCost measures what 200 rules cost a program that none is about. The
// bound is loose, since the machine may have other work and the program does next to nothing;
// docs/performance.md has figures.
func TestGuestCost(t *testing.T) {
	if !inguest.Inside() {
		t.Skip("TestInVM runs it")
	}
	if err := prepare(); err != nil {
		t.Fatal(err)
	}
	b, err := newBox("cost")
	if err != nil {
		t.Fatal(err)
	}
	p := &execgate.Policy{Image: &execgate.Reason{}, ImageTime: time.Now()}
	for i := range 200 {
		name := fmt.Sprintf("/usr/bin/denied-%d", i)
		if err := os.WriteFile(filepath.Join(b.root, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		p.Rules = append(p.Rules, execgate.Rule{Action: execgate.Deny, Path: name})
	}
	program := filepath.Join(b.root, attempts.Image)
	group, err := os.Open(b.group)
	if err != nil {
		t.Fatal(err)
	}
	// Alternating, and the best of each: what else the machine does only adds.
	without, with := execs(t, program, int(group.Fd())), time.Duration(math.MaxInt64)
	for range 3 {
		gate, err := execgate.Load(p, nil)
		if err != nil {
			t.Fatal(err)
		}
		// A process whose root is the box's, as that of a container.
		holder := exec.Command(attempts.Self, "sleep")
		holder.Env = []string{attemptVariable + "=1"}
		holder.SysProcAttr = &syscall.SysProcAttr{Chroot: b.root}
		if err := holder.Start(); err != nil {
			t.Fatal(err)
		}
		if err := gate.Arm(b.group, holder.Process.Pid); err != nil {
			t.Fatal(err)
		}
		with = min(with, execs(t, program, int(group.Fd())))
		if err := holder.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = holder.Wait()
		if err := gate.Close(); err != nil {
			t.Fatal(err)
		}
		without = min(without, execs(t, program, int(group.Fd())))
	}
	t.Logf("an exec takes %v without the gate, %v with 200 rules: %.2f times", without, with, float64(with)/float64(without))
	if with > 2*without {
		t.Errorf("the gate makes it %.2f times as long", float64(with)/float64(without))
	}
}

// execs returns the time, exceeded by nine of ten, of starting a program in the group and waiting
// for its end.
func execs(t *testing.T, program string, group int) time.Duration {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	took := make([]time.Duration, 300)
	for i := range took {
		began := time.Now()
		pid, err := syscall.ForkExec(program, []string{program}, &syscall.ProcAttr{
			Files: []uintptr{null.Fd(), null.Fd(), null.Fd()},
			Sys:   &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: group},
		})
		if err != nil {
			t.Fatal(err)
		}
		var ws unix.WaitStatus
		if _, err := unix.Wait4(pid, &ws, 0, nil); err != nil || ws.ExitStatus() != 0 {
			t.Fatalf("%v, %v", ws, err)
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	return took[len(took)/10]
}
