// Package cloudhypervisor runs virtual machines with Cloud Hypervisor, version
// 52 or later, over its HTTP interface.
//
// The calls are generated from api/openapi.yaml, which holds those made and no
// others. One process is one VM; it listens on a socket that this package made
// and reports events on a pipe, which is where the VM's end is learnt from.
//
// What is promised about a hostile guest: what the VMM answers, reports, prints
// and writes to the console is bounded, and events that cannot be read end the
// VM. The VMM's user, namespaces and limits are the business of
// Config.StartProcess; its own seccomp filters are left on.
//
// A path in the configuration is opened by the VMM, not here: whether it should
// be is decided by the caller.
package cloudhypervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/hypervisor/internal/vmm"
	"github.com/nanoclaw/nanoclaw/internal/cleanup"
	"github.com/nanoclaw/nanoclaw/internal/process"
)

//go:generate go tool -modfile=../../tools/go.mod oapi-codegen -config api/oapi-codegen.yaml api/openapi.yaml

// MinVersion is the oldest major version of Cloud Hypervisor that is used.
// Earlier ones ignore configuration they do not know, and have a known hole in
// their block device.
const MinVersion = 52

// Options are what the driver needs from the host.
type Options struct {
	// Binary is cloud-hypervisor.
	Binary string
}

// CloudHypervisor is the driver.
type CloudHypervisor struct{ options Options }

var _ hypervisor.Hypervisor = (*CloudHypervisor)(nil)

// New returns the driver. Nothing is checked before a VM is started.
func New(o Options) *CloudHypervisor { return &CloudHypervisor{o} }

// Name is part of hypervisor.Hypervisor.
func (*CloudHypervisor) Name() string { return "cloud-hypervisor" }

// Isolates is part of hypervisor.Hypervisor. There is no emulation.
func (*CloudHypervisor) Isolates() bool { return true }

// Start is part of hypervisor.Hypervisor.
func (h *CloudHypervisor) Start(ctx context.Context, c hypervisor.Config) (hypervisor.VM, error) {
	if err := check(c); err != nil {
		return nil, fmt.Errorf("start cloud-hypervisor: %w", err)
	}
	if c.StartProcess == nil {
		c.StartProcess = (*exec.Cmd).Start
	}
	v, err := h.launch(c)
	if err != nil {
		return nil, fmt.Errorf("start cloud-hypervisor: %w", err)
	}
	if err := v.boot(ctx, c); err != nil {
		v.process.Kill()
		<-v.done
		if words := v.process.Words(); words != "" {
			err = fmt.Errorf("%w; its last words: %s", err, words)
		}
		return nil, fmt.Errorf("start cloud-hypervisor: %w", h.explain(ctx, err))
	}
	return v, nil
}

// versionTimeout bounds the asking of a program that did not start well.
const versionTimeout = 5 * time.Second

// explain puts a version that is too old in the place of what came from it: such
// a program ends at an option that it does not know, and answers no call.
func (h *CloudHypervisor) explain(ctx context.Context, err error) error {
	if !errors.Is(err, errNoAnswer) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	out, failed := exec.CommandContext(ctx, h.options.Binary, "--version").Output()
	words := strings.Fields(string(out))
	if failed != nil || len(words) < 2 {
		return err
	}
	if old := checkVersion(words[1]); old != nil {
		return fmt.Errorf("%s: %w", h.options.Binary, old)
	}
	return err
}

// The descriptors that the VMM inherits, in the order of exec.Cmd.ExtraFiles.
const (
	apiFD = 3 + iota
	eventsFD
	consoleFD
)

// consolePath is the console's file as the VMM opens it: a pipe, because a file
// of its own would let the guest fill the disk.
var consolePath = "/proc/self/fd/" + strconv.Itoa(consoleFD)

func apiSocket(dir string) string { return filepath.Join(dir, "api.sock") }

// launch starts the process and the goroutines that wait for it.
func (h *CloudHypervisor) launch(c hypervisor.Config) (_ *vm, err error) {
	// What is ours is closed on failure; what the process holds duplicates of,
	// always.
	var ours, lent cleanup.Stack
	defer func() { err = errors.Join(err, ours.Run()) }()
	defer func() { _ = lent.Run() }()
	con, err := vmm.OpenConsole(c.Console)
	if err != nil {
		return nil, err
	}
	ours.Add("close the console's file", con.Close)
	// A socket left by a killed predecessor would make bind fail, in this
	// process or in the VMM.
	removeSockets(c.Dir)
	ours.Add("remove the sockets", func() error { removeSockets(c.Dir); return nil })
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: apiSocket(c.Dir), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for the VMM: %w", err)
	}
	listener.SetUnlinkOnClose(false)
	lent.Add("close the VMM's socket", listener.Close)
	api, err := listener.File()
	if err != nil {
		return nil, fmt.Errorf("listen for the VMM: %w", err)
	}
	lent.Add("close the VMM's socket", api.Close)
	events, eventsEnd, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make the event monitor's pipe: %w", err)
	}
	ours.Add("close the event monitor", events.Close)
	lent.Add("close the VMM's end of the event monitor", eventsEnd.Close)
	output, outputEnd, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make the console's pipe: %w", err)
	}
	ours.Add("close the console", output.Close)
	lent.Add("close the VMM's end of the console", outputEnd.Close)

	// With --no-shutdown a guest's power-off leaves the process there to be asked,
	// which tells it from an end after a fault of its own.
	cmd := exec.Command(h.options.Binary,
		"--api-socket", "fd="+strconv.Itoa(apiFD),
		"--event-monitor", "fd="+strconv.Itoa(eventsFD),
		"--no-shutdown")
	cmd.Dir = "/"
	cmd.Env = []string{"LANG=C"}
	cmd.ExtraFiles = []*os.File{api, eventsEnd, outputEnd}
	proc, err := process.Start(c.StartProcess, "cloud-hypervisor", cmd)
	if err != nil {
		return nil, err
	}
	ours.Release()
	v := newVM(c, proc, con, events, output)
	v.supervise()
	return v, nil
}

// removeSockets removes what the VMM does not remove when it is killed.
func removeSockets(dir string) {
	_ = os.Remove(apiSocket(dir))
	_ = os.Remove(hypervisor.VsockPath(dir))
}

// boot tells a process that has just started what to run. NICs come between
// create and boot, because create takes no descriptors.
func (v *vm) boot(ctx context.Context, c hypervisor.Config) error {
	p, err := v.client.ping(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	if err := checkVersion(p.Version); err != nil {
		return err
	}
	if err := v.client.create(ctx, vmConfig(c, consolePath)); err != nil {
		return err
	}
	for _, n := range c.NICs {
		if err := v.client.addNet(ctx, nicConfig(n), n.Tap); err != nil {
			return fmt.Errorf("NIC %s: %w", n.ID, err)
		}
	}
	return v.client.boot(ctx)
}

var (
	// errVersion is wrapped by checkVersion's errors.
	errVersion = errors.New("unsuitable version of cloud-hypervisor")
	// errNoAnswer is wrapped where not even the version was answered.
	errNoAnswer = errors.New("it does not answer")
)

// checkVersion takes versions such as "53.0", "v53.0" and "54.0.0-dev".
func checkVersion(version string) error {
	major, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	n, err := strconv.ParseUint(major, 10, 16)
	if err != nil {
		return fmt.Errorf("%w: it says %.40q; install version %d or later", errVersion, version, MinVersion)
	}
	if n < MinVersion {
		return fmt.Errorf("%w: it is %.40q; install version %d or later", errVersion, version, MinVersion)
	}
	return nil
}
