package vmcgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3"
)

func TestCounter(t *testing.T) {
	for text, want := range map[string]int{
		"":                      0,
		"max 3\n":               3,
		"other 1\nmax 2\n":      2,
		"maximum 1\n":           0,
		"max\n":                 0,
		"max x\n":               0,
		"oom 1\nmax 4\nlow 0\n": 4,
	} {
		if got := counter(text, "max"); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

// A limit above the VM's own group, as --cgroup-parent sets one.
func TestShortageOfProcesses(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("making a cgroup needs root")
	}
	parent := fmt.Sprintf("/nanoclaw-test-pids-%d", os.Getpid())
	c, err := New(parent+"/vm", 64<<20)
	if err != nil {
		t.Skipf("no cgroup can be made here: %v", err)
	}
	t.Cleanup(func() {
		for _, path := range []string{parent + "/vm", parent} {
			if err := Destroy(path, 5*time.Second); err != nil {
				t.Error(err)
			}
		}
	})
	if s := c.Shortage(); s != "" {
		t.Errorf("of a new one: %s", s)
	}
	folder := filepath.Join(mountpoint, "pids", parent)
	if cgroups.Mode() == cgroups.Unified {
		folder = filepath.Join(mountpoint, parent)
	}
	if err := os.WriteFile(filepath.Join(folder, "pids.max"), []byte("1"), 0o600); err != nil {
		t.Skipf("the number of processes cannot be limited here: %v", err)
	}
	// A shell that is in the group cannot start anything.
	cmd := exec.Command("sh", "-c", "read -r go; /bin/true; exit 0")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.Join(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if _, err := stdin.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it says that it cannot fork
	if s := c.Shortage(); !strings.Contains(s, "pids.max") {
		t.Errorf("after a process that could not be started: %q", s)
	}
}
