package vmcgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestPath(t *testing.T) {
	for _, tt := range []struct{ oci, want string }{
		{"/docker/abc", "/docker/abc"},
		{"docker/abc", "/docker/abc"},
		{"system.slice:docker:abc", "/nanoclaw/abc"},
		{"system.slice:docker:../../x", "/nanoclaw/x"},
		{"", "/nanoclaw/id"},
		{"/../../etc", "/etc"},
	} {
		if got := Path(tt.oci, "id"); got != tt.want {
			t.Errorf("Path(%q) = %q, want %q", tt.oci, got, tt.want)
		}
	}
}

func TestDestroyKillsWhatAnotherProcessLeft(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("making a cgroup needs root")
	}
	path := fmt.Sprintf("/nanoclaw-test-%d", os.Getpid())
	c, err := New(path, 64<<20)
	if err != nil {
		t.Skipf("no cgroup can be made here: %v", err)
	}
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.Join(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	if err := Destroy(path, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err == nil {
			t.Fatal("the process ended by itself")
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the process lives on")
	}
	if err := Destroy(path, time.Second); err != nil {
		t.Fatalf("destroying what is not there: %v", err)
	}
}

// The kernel refuses for a while to remove the cgroup of processes that are gone.
func TestRemovingIsTriedUntilTheDeadline(t *testing.T) {
	busy := errors.New("busy")
	for name, test := range map[string]struct {
		last error
		want error
	}{
		"in the end":    {nil, nil},
		"gone meantime": {os.ErrNotExist, nil},
		"never":         {busy, busy},
	} {
		tries := 0
		err := until(time.Now().Add(100*time.Millisecond), func() error {
			if tries++; tries < 4 {
				return busy
			}
			return test.last
		})
		if !errors.Is(err, test.want) || tries < 4 {
			t.Errorf("%s: %v after %d tries", name, err, tries)
		}
	}
}
