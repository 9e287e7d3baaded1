package share

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/internal/program"
)

// realDaemon returns a virtiofsd; NANOCLAW_VIRTIOFSD names one that is not
// installed.
func realDaemon(t *testing.T) string {
	t.Helper()
	if p := os.Getenv("NANOCLAW_VIRTIOFSD"); p != "" {
		return p
	}
	for _, p := range program.Virtiofsd {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	t.Skipf("virtiofsd is not installed: looked for %v", program.Virtiofsd)
	return ""
}

// fakeDaemon is a script in place of virtiofsd.
func fakeDaemon(t *testing.T, script string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "virtiofsd")
	if err := os.WriteFile(p, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

func waitDone(t *testing.T, s *Share) {
	t.Helper()
	select {
	case <-s.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the daemon's end was not noticed")
	}
}

func TestDaemonsDeathIsReported(t *testing.T) {
	b := newBench(t)
	script := `i=0; while [ $i -lt 2000 ]; do echo noise >&2; i=$((i+1)); done; echo last words >&2; exit 7`
	b.must(b.share.Serve(context.Background(), fakeDaemon(t, script)))
	waitDone(t, b.share)
	err := b.share.Err()
	if err == nil || !strings.Contains(err.Error(), "last words") || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("reported as %v", err)
	}
}

func TestStartFailureLeavesNothing(t *testing.T) {
	b := newBench(t)
	b.refusedServe(errors.New("no room"))
	if _, err := os.Lstat(b.share.Socket()); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestFileHandlesOnlyWhereDescriptorsRunOut(t *testing.T) {
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	want := "never"
	if was.Max < enoughFiles {
		want = "prefer"
	}
	if got := fileHandles(); got != want {
		t.Errorf("with at most %d open files: %s, want %s", was.Max, got, want)
	}
}

func (b *bench) refusedServe(cause error) {
	b.Helper()
	b.start = func(*exec.Cmd) error { return cause }
	err := b.share.Serve(context.Background(), "/bin/true")
	if !errors.Is(err, cause) {
		b.Errorf("served: %v", err)
	}
}

func TestCloseEndsTheDaemon(t *testing.T) {
	b := newBench(t)
	b.must(b.share.Serve(context.Background(), fakeDaemon(t, "exec sleep 1000")))
	if err := b.share.Serve(context.Background(), "/bin/true"); err == nil {
		t.Error("served twice")
	}
	pid := b.share.PID()
	b.must(b.share.Close())
	if b.share.Err() != nil {
		t.Errorf("closing is reported as a death: %v", b.share.Err())
	}
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the daemon is left: %v", err)
	}
	b.must(b.share.Close())
	if _, err := b.add(testID, spec()); err == nil {
		t.Error("a closed share took a container")
	}
}

// TestRealDaemonIsConfined reads from /proc what the daemon really has.
func TestRealDaemonIsConfined(t *testing.T) {
	daemon := realDaemon(t)
	b := newBench(t)
	b.mustAdd(spec(bind(b.mkdir("dir"), "/data")))
	b.start = func(c *exec.Cmd) error {
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		return c.Start()
	}
	b.must(b.share.Serve(context.Background(), daemon))
	pid := strconv.Itoa(b.share.PID())
	proc := filepath.Join("/proc", pid)

	// It has confined itself when it waits for the VM.
	var root string
	for range 200 {
		root, _ = os.Readlink(proc + "/root")
		if status, err := os.ReadFile(proc + "/status"); root == b.share.Dir() && err == nil && strings.Contains(string(status), "Seccomp:\t2") {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if root != b.share.Dir() {
		t.Fatalf("its root is %q, not the tree; it said %q", root, b.share.daemon.Words())
	}
	status, err := os.ReadFile(proc + "/status")
	b.must(err)
	for _, line := range strings.Split(string(status), "\n") {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Seccomp":
			if value != "2" {
				t.Errorf("no seccomp filter: %s", value)
			}
		case "CapEff":
			caps, err := strconv.ParseUint(value, 16, 64)
			b.must(err)
			for _, c := range []struct {
				name string
				bit  uint
			}{
				{"SYS_ADMIN", unix.CAP_SYS_ADMIN},
				{"SYS_CHROOT", unix.CAP_SYS_CHROOT},
				{"SYS_PTRACE", unix.CAP_SYS_PTRACE},
				{"DAC_READ_SEARCH", unix.CAP_DAC_READ_SEARCH},
				{"NET_ADMIN", unix.CAP_NET_ADMIN},
			} {
				if c.bit == unix.CAP_DAC_READ_SEARCH && fileHandles() != "never" {
					continue // the machine allows too few open files to do without
				}
				if caps&(1<<c.bit) != 0 {
					t.Errorf("it keeps CAP_%s", c.name)
				}
			}
			t.Logf("capabilities %s", value)
		}
	}
	children, err := os.ReadFile(proc + "/task/" + pid + "/children")
	b.must(err)
	if len(children) > 0 {
		t.Errorf("it has children: %s", children)
	}
	// It serves one VM and ends with it.
	c, err := net.Dial("unix", b.share.Socket())
	b.must(err)
	b.must(c.Close())
	waitDone(t, b.share)
}
