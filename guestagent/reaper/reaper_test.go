package reaper

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// One reaper for all tests: it takes every child of the process.
var shared = sync.OnceValue(func() *Reaper {
	r := New()
	go r.Run(context.Background())
	return r
})

func start(t *testing.T, args ...string) int {
	t.Helper()
	p, err := os.StartProcess(args[0], args, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	return p.Pid
}

func wait(t *testing.T, c *Child) Exit {
	t.Helper()
	select {
	case <-c.Done():
		return c.Exit()
	case <-time.After(10 * time.Second):
		t.Fatal("the child's exit is lost")
		return Exit{}
	}
}

func TestStatus(t *testing.T) {
	r := shared()
	for _, test := range []struct {
		script string
		status int
	}{{"exit 0", 0}, {"exit 42", 42}, {"kill -9 $$", 137}, {"kill -TERM $$", 143}} {
		e := r.Expect()
		c := e.Claim(start(t, "/bin/sh", "-c", test.script))
		e.Close()
		if got := wait(t, c); got.Status != test.status || got.PID != c.PID() || got.At.IsZero() {
			t.Errorf("%q ended with %+v, want %d", test.script, got, test.status)
		}
	}
}

func TestExitBeforeTheClaimIsKept(t *testing.T) {
	r := shared()
	e := r.Expect()
	defer e.Close()
	pid := start(t, "/bin/sh", "-c", "exit 3")
	for begin := time.Now(); unix.Kill(pid, 0) == nil; time.Sleep(time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			t.Fatal("the child is not reaped")
		}
	}
	if got := wait(t, e.Claim(pid)); got.Status != 3 {
		t.Errorf("got %+v", got)
	}
}

func TestNothingIsKeptWithoutExpectation(t *testing.T) {
	r := New()
	r.exitedLocked(Exit{PID: 7})
	if len(r.unclaimed) != 0 {
		t.Error("an exit that nobody waits for is kept")
	}
	a, b := r.Expect(), r.Expect()
	r.exitedLocked(Exit{PID: 8})
	a.Close()
	a.Close()
	if len(r.unclaimed) != 1 {
		t.Error("closing one expectation twice ended the other")
	}
	b.Close()
	if len(r.unclaimed) != 0 {
		t.Error("exits are kept after the last expectation")
	}
}

func TestSignal(t *testing.T) {
	r := shared()
	e := r.Expect()
	c := e.Claim(start(t, "/bin/sleep", "1000"))
	e.Close()
	if err := c.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, c); got.Status != 137 {
		t.Errorf("got %+v", got)
	}
	if err := c.Signal(unix.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("Signal after the exit = %v", err)
	}
}

func TestCommands(t *testing.T) {
	m := shared().Commands()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			var out bytes.Buffer
			cmd := exec.Command("/bin/sh", "-c", "echo hello; exit 5")
			cmd.Stdout = &out
			exits, err := m.Start(cmd)
			if err != nil {
				t.Error(err)
				return
			}
			status, err := m.Wait(cmd, exits)
			if err != nil || status != 5 || strings.TrimSpace(out.String()) != "hello" {
				t.Errorf("status %d, output %q, %v", status, out.String(), err)
			}
		})
	}
	wg.Wait()
	if _, err := m.Start(exec.Command("/nothere")); err == nil {
		t.Error("a missing command starts")
	}
}

func TestCommandIsKilledAtItsDeadline(t *testing.T) {
	m := shared().Commands()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sleep", "1000")
	exits, err := m.StartLocked(cmd)
	if err != nil {
		t.Fatal(err)
	}
	if status, err := m.Wait(cmd, exits); err != nil || status != 137 {
		t.Errorf("status %d, %v", status, err)
	}
}
