// Package choose picks the hypervisor that runs VMs on this host.
//
// That /dev/kvm opens proves nothing: there are hosts whose KVM makes a VM and
// a virtual CPU and then boots no ordinary kernel. So a candidate is tried: it
// boots our own guest once, and the verdict is kept until the host boots again
// or something of it changes.
package choose

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/hypervisor/qemu"
)

// canaryLimit bounds the trial boot. With a KVM that works it takes under a
// second.
const canaryLimit = 10 * time.Second

// canaryMemory is the trial guest's memory in bytes.
const canaryMemory = 128 << 20

// ErrNone is wrapped by the error for a host on which nothing can run a VM.
var ErrNone = errors.New("no hypervisor can be used on this host")

// Config is what the host's owner allows, and where the parts are.
type Config struct {
	// Hypervisor is "auto", "cloud-hypervisor" or "qemu".
	Hypervisor string
	// AllowEmulation permits QEMU without KVM.
	AllowEmulation bool
	// Programs, each a path or a name to look up.
	QEMU, VhostDeviceVsock string
	// Kernel and Image are what a trial boots.
	Kernel, Image string
	// Dir is the run directory; verdicts are kept in it.
	Dir string
	// File is the configuration's file, for messages.
	File string
}

// Hypervisor returns the hypervisor that c allows and this host has, or an
// error that says what was tried and what to do.
func Hypervisor(ctx context.Context, c Config) (hypervisor.Hypervisor, error) {
	var tried []string
	if c.Hypervisor == "cloud-hypervisor" {
		return nil, fmt.Errorf("%w: hypervisor is set to cloud-hypervisor, which this version has no driver for; set it to qemu or auto in %s", ErrNone, c.File)
	}
	options, err := qemuOptions(c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	options.Accel = qemu.KVM
	why := kvmProblem(ctx, c, options)
	if why == "" {
		return qemu.New(options), nil
	}
	tried = append(tried, "qemu with KVM: "+why)
	if c.AllowEmulation {
		options.Accel = qemu.TCG
		return qemu.New(options), nil
	}
	tried = append(tried, "qemu without KVM: emulation is no isolation, and allow_emulation is not set")
	return nil, fmt.Errorf("%w. Tried: %s. Use a host with a working KVM, or, for development only, set allow_emulation: true in %s",
		ErrNone, strings.Join(tried, "; "), c.File)
}

func qemuOptions(c Config) (qemu.Options, error) {
	binary, err := find(c, c.QEMU)
	if err != nil {
		return qemu.Options{}, err
	}
	vsock, err := find(c, c.VhostDeviceVsock, "/usr/libexec/vhost-device-vsock", "/usr/lib/vhost-device-vsock")
	if err != nil {
		return qemu.Options{}, err
	}
	return qemu.Options{Binary: binary, VsockBinary: vsock}, nil
}

func find(c Config, name string, known ...string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, path := range known {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s was not found; install it, or name it in %s", name, c.File)
}

// kvmProblem says why KVM cannot be used, or "".
func kvmProblem(ctx context.Context, c Config, o qemu.Options) string {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return err.Error()
	}
	if err := f.Close(); err != nil {
		return err.Error()
	}
	key, err := verdictKey(o.Binary, c.Kernel, c.Image)
	if err != nil {
		return err.Error()
	}
	v := verdicts{dir: c.Dir}
	why, err := v.get(key, func() string { return canary(ctx, c, qemu.New(o)) })
	if err != nil {
		return err.Error()
	}
	return why
}

// canary boots the guest without a share. The agent then has nothing to do and
// powers off, which proves processor, kernel, disk and agent in one.
func canary(ctx context.Context, c Config, h hypervisor.Hypervisor) string {
	dir, err := os.MkdirTemp(c.Dir, "canary-")
	if err != nil {
		return err.Error()
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ctx, cancel := context.WithTimeout(ctx, canaryLimit)
	defer cancel()
	vm, err := h.Start(ctx, hypervisor.Config{
		ID: "canary", Dir: dir, Kernel: c.Kernel, Image: c.Image,
		CPUs: 1, Memory: canaryMemory, CID: 3, Console: filepath.Join(dir, "console.log"),
	})
	if err != nil {
		return "a trial guest did not start: " + err.Error()
	}
	select {
	case <-vm.Done():
	case <-ctx.Done():
		vm.Kill()
		<-vm.Done()
		return fmt.Sprintf("/dev/kvm opens, but a trial guest did not boot within %s", canaryLimit)
	}
	if e := vm.Exit(); e.Cause != hypervisor.CauseGuest {
		return fmt.Sprintf("/dev/kvm opens, but a trial guest ended with: %s %s", e.Cause, e.Detail)
	}
	return ""
}
