package launch

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary stand for a shim that starts a child and is
// then killed.
func TestMain(m *testing.M) {
	if out := os.Getenv("LAUNCH_TEST_PARENT"); out != "" {
		cmd := exec.Command("sleep", "60")
		if err := New().Start(cmd, nil, nil); err != nil {
			os.Exit(1)
		}
		tmp := out + ".tmp"
		if os.WriteFile(tmp, []byte(strconv.Itoa(cmd.Process.Pid)), 0o600) != nil || os.Rename(tmp, out) != nil {
			os.Exit(1)
		}
		select {}
	}
	os.Exit(m.Run())
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestChildDiesWithAKilledShim(t *testing.T) {
	out := filepath.Join(t.TempDir(), "pid")
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), "LAUNCH_TEST_PARENT="+out)
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	eventually(t, "the child started", func() bool {
		data, err := os.ReadFile(out)
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(data)))
		return err == nil
	})
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	eventually(t, "the child is gone", func() bool {
		state, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		return err != nil || strings.Contains(string(state), ") Z ")
	})
}

type refusing struct{}

func (refusing) Join(int) error { return errors.New("no such cgroup") }

func TestAProcessThatCannotJoinIsKilled(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	err := New().Start(cmd, nil, refusing{})
	if err == nil || !strings.Contains(err.Error(), "no such cgroup") {
		t.Fatalf("got %v", err)
	}
	if err := unix.Kill(cmd.Process.Pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Fatalf("the process is still there: %v", err)
	}
}

func TestStartReportsAMissingProgram(t *testing.T) {
	if err := New().Start(exec.Command("/does/not/exist"), nil, nil); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("got %v, want ErrNotExist", err)
	}
}

// A dump of one would have what it holds of the guest.
func TestNoCoreDump(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := New().Start(cmd, nil, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var limit unix.Rlimit
	if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_CORE, nil, &limit); err != nil || limit.Cur != 0 || limit.Max != 0 {
		t.Errorf("%+v, %v", limit, err)
	}
}
