package choose

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nanoclaw/nanoclaw/hypervisor/qemu"
)

// host returns a configuration whose programs exist but boot nothing.
func host(t *testing.T) Config {
	t.Helper()
	dir := t.TempDir()
	touch := func(name string) string {
		path := filepath.Join(dir, name)
		// Starts, and is no hypervisor.
		if err := os.WriteFile(path, []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return Config{
		Hypervisor: "auto", QEMU: touch("qemu"), VhostDeviceVsock: touch("vsock"),
		Kernel: touch("vmlinux"), Image: touch("guest.img"),
		Dir: filepath.Join(dir, "run"), File: "/etc/nanoclaw/config.yaml",
	}
}

func TestEmulationOnlyWhereItIsAllowed(t *testing.T) {
	c := host(t)
	_, err := Hypervisor(context.Background(), c)
	if !errors.Is(err, ErrNone) || !strings.Contains(err.Error(), "allow_emulation") || !strings.Contains(err.Error(), c.File) {
		t.Fatalf("got %v, want ErrNone that names allow_emulation and the file", err)
	}
	c.AllowEmulation = true
	h, err := Hypervisor(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	if h.Isolates() || h.Name() != qemu.New(qemu.Options{Accel: qemu.TCG}).Name() {
		t.Fatalf("got %s, want the emulation", h.Name())
	}
}

func TestAMissingProgramIsNamed(t *testing.T) {
	c := host(t)
	c.VhostDeviceVsock = filepath.Join(t.TempDir(), "absent")
	if _, err := Hypervisor(context.Background(), c); !errors.Is(err, ErrNone) || !strings.Contains(err.Error(), "absent") {
		t.Fatalf("got %v", err)
	}
}

func TestCloudHypervisorIsRefusedByName(t *testing.T) {
	c := host(t)
	c.Hypervisor = "cloud-hypervisor"
	if _, err := Hypervisor(context.Background(), c); !errors.Is(err, ErrNone) || !strings.Contains(err.Error(), "cloud-hypervisor") {
		t.Fatalf("got %v", err)
	}
}
