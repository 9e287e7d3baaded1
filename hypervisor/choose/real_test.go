package choose

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nanoclaw/nanoclaw/hypervisor/qemu"
)

// realConfig is this machine's, or skips the test.
func realConfig(t *testing.T) Config {
	t.Helper()
	guest := os.Getenv("NANOCLAW_GUEST")
	if guest == "" {
		t.Skip("NANOCLAW_GUEST does not name the folder of a built guest")
	}
	// t.TempDir's paths are too long for sockets.
	dir, err := os.MkdirTemp("", "choose")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return Config{
		Hypervisor: "auto", AllowEmulation: true,
		QEMU: "qemu-system-x86_64", VhostDeviceVsock: "vhost-device-vsock",
		Kernel: filepath.Join(guest, "vmlinux"), Image: filepath.Join(guest, "guest.img"),
		Dir: dir, File: "/etc/nanoclaw/config.yaml",
	}
}

// The trial's guest powers itself off: with emulation that can be seen anywhere.
func TestRealTrialSucceedsWithEmulation(t *testing.T) {
	c := realConfig(t)
	o, err := qemuOptions(c, qemu.TCG)
	if err != nil {
		t.Skip(err)
	}
	s := system
	s.pvm = filepath.Join(c.Dir, "absent")
	if found, err := s.trial(context.Background(), c, qemu.New(o)); found.problem != "" || err != nil {
		t.Fatalf("%+v, %v", found, err)
	}
}

func TestRealHostIsExaminedOnce(t *testing.T) {
	c := realConfig(t)
	for i := range 2 {
		began := time.Now()
		r := Examine(context.Background(), c)
		took := time.Since(began)
		if err := r.Err(); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s after %v: %+v", r.Chosen.Name(), took, r.Candidates)
		if i == 1 && took > 100*time.Millisecond {
			t.Errorf("the second time took %v", took)
		}
	}
}
