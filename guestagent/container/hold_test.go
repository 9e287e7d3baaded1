package container

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestMountsStayUntilTheShareHasAnswered(t *testing.T) {
	for name, c := range map[string]struct {
		waiting []string
		held    bool
	}{
		"idle":           {[]string{"0\n"}, false},
		"busy, idle":     {[]string{"3\n", "0\n"}, false},
		"busy":           {[]string{"3\n", "10\n"}, true},
		"cannot be seen": {nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, err := holdMounts(os.Getpid(), t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			h.waiting = filepath.Join(t.TempDir(), "waiting")
			for i, s := range c.waiting {
				// In one piece: what is read half written is no number.
				next := h.waiting + ".next"
				if err := os.WriteFile(next, []byte(s), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(next, h.waiting); err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					h.release()
					time.Sleep(100 * time.Millisecond)
				}
			}
			if c.waiting == nil {
				h.release()
			}
			isHeld := func() bool { _, err := h.namespace.Stat(); return err == nil }
			for end := time.Now().Add(time.Second); isHeld() && time.Now().Before(end); {
				time.Sleep(10 * time.Millisecond)
			}
			if isHeld() != c.held {
				t.Errorf("held: %t", isHeld())
			}
		})
	}
}

func TestMountsOfNoProcess(t *testing.T) {
	if _, err := holdMounts(1<<30, t.TempDir()); err == nil {
		t.Error("mounts of a process that is not there are held")
	}
	if _, err := holdMounts(os.Getpid(), filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("a share that is not there is examined")
	}
}
