package container

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestMountsGoWhenTheShareHasAnswered(t *testing.T) {
	for name, c := range map[string]struct {
		waiting, later string
		least, most    time.Duration
	}{
		"idle":           {"0\n", "", 0, settleTime / 2},
		"busy, idle":     {"3\n", "0\n", 100 * time.Millisecond, settleTime / 2},
		"busy always":    {"3\n", "2\n", settleTime, 2 * settleTime},
		"cannot be seen": {"", "", settleTime, 2 * settleTime},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, err := holdMounts(os.Getpid(), t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			h.waiting = filepath.Join(t.TempDir(), "waiting")
			write := func(s string) {
				if s == "" {
					return
				}
				if err := os.WriteFile(h.waiting, []byte(s), 0o600); err != nil {
					t.Error(err)
				}
			}
			write(c.waiting)
			if c.later != "" {
				timer := time.AfterFunc(100*time.Millisecond, func() { write(c.later) })
				defer timer.Stop()
			}
			began := time.Now()
			if err := h.release(context.Background()); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took < c.least || took > c.most {
				t.Errorf("it took %v", took)
			}
			if _, err := h.namespace.Stat(); err == nil {
				t.Error("the namespace is still held")
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
