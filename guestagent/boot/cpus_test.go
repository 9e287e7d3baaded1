package boot

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// One that has a switch already, and one that comes later.
func TestUseCPUs(t *testing.T) {
	folder := t.TempDir()
	arrive := func(name string) {
		dir := filepath.Join(folder, name)
		// Its file is there with its folder, as in sysfs.
		if err := os.Mkdir(dir+".new", 0o700); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(filepath.Join(dir+".new", "online"), []byte("0"), 0o600); err != nil {
			t.Error(err)
		}
		if err := os.Rename(dir+".new", dir); err != nil {
			t.Error(err)
		}
	}
	arrive("cpu1")
	later := time.AfterFunc(50*time.Millisecond, func() { arrive("cpu2") })
	defer later.Stop()
	if err := useCPUs(t.Context(), folder, 3); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cpu1", "cpu2"} {
		if got, err := os.ReadFile(filepath.Join(folder, name, "online")); err != nil || string(got) != "1" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := useCPUs(ctx, folder, 4); err == nil || !strings.Contains(err.Error(), "wait for CPU 3") {
		t.Errorf("one that does not come: %v", err)
	}
	if err := useCPUs(t.Context(), folder, maxCPUs+1); err == nil {
		t.Error("more than the kernel knows")
	}
}
