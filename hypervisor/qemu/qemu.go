// Package qemu runs virtual machines with QEMU: machine q35, virtio devices,
// controlled over QMP.
//
// It is the fallback for hosts without Cloud Hypervisor and, by emulation, the
// only driver for hosts without KVM. Emulation is not isolation, and Isolates
// says so; whether it may be used is not decided here.
//
// QEMU has no vsock device that is private to a VM, so each VM has a second
// process, vhost-device-vsock, which offers the same Unix sockets as Cloud
// Hypervisor does. Either process ends with the other.
//
// What is promised about a hostile guest: QEMU gets no path of the VM's folder,
// only connected sockets; it cannot start programs or regain privileges; what
// it says on QMP and on the console is bounded. Its user, its namespaces and
// its limits are the business of Config.StartProcess.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/hypervisor/internal/vmm"
	"github.com/nanoclaw/nanoclaw/hypervisor/qemu/internal/qmp"
	"github.com/nanoclaw/nanoclaw/internal/cleanup"
	"github.com/nanoclaw/nanoclaw/internal/process"
)

// Accel is how QEMU runs the guest's instructions.
type Accel string

const (
	// KVM uses the processor's virtualisation.
	KVM Accel = "kvm"
	// TCG emulates. With more than one virtual CPU, guests were seen to panic
	// at boot about once in a hundred times.
	TCG Accel = "tcg"
)

// Options are what the driver needs from the host.
type Options struct {
	// Binary is qemu-system-x86_64, version 8.0 or later.
	Binary string
	// VsockBinary is rust-vmm's vhost-device-vsock, version 0.3 or later.
	VsockBinary string
	Accel       Accel
}

// QEMU is the driver.
type QEMU struct{ options Options }

var _ hypervisor.Hypervisor = (*QEMU)(nil)

// New returns the driver. Nothing is checked before a VM is started.
func New(o Options) *QEMU { return &QEMU{o} }

// Name is part of hypervisor.Hypervisor.
func (q *QEMU) Name() string {
	if q.options.Accel == TCG {
		return "qemu (emulation)"
	}
	return "qemu"
}

// Isolates is part of hypervisor.Hypervisor.
func (q *QEMU) Isolates() bool { return q.options.Accel == KVM }

// vsockControl is the vsock device's socket for QEMU, in the VM's folder. It is
// gone once QEMU is connected.
const vsockControl = "vu.sock"

// Start is part of hypervisor.Hypervisor.
func (q *QEMU) Start(ctx context.Context, c hypervisor.Config) (hypervisor.VM, error) {
	if err := check(q.options.Accel, c); err != nil {
		return nil, fmt.Errorf("start qemu: %w", err)
	}
	if err := hypervisor.CheckKernel(c.Kernel); err != nil {
		return nil, fmt.Errorf("start qemu: %w", err)
	}
	if c.StartProcess == nil {
		c.StartProcess = (*exec.Cmd).Start
	}
	v, err := q.start(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("start qemu: %w", err)
	}
	return v, nil
}

// start starts both processes. Whatever it has acquired is on the undo stack
// until the supervisor owns it.
func (q *QEMU) start(ctx context.Context, c hypervisor.Config) (_ *vm, err error) {
	var undo cleanup.Stack
	defer func() { err = errors.Join(err, undo.Run()) }()
	// QEMU holds duplicates of these once it runs.
	var lent cleanup.Stack
	defer func() { err = errors.Join(err, lent.Run()) }()

	con, err := vmm.OpenConsole(c.Console)
	if err != nil {
		return nil, err
	}
	undo.Add("close the console's file", con.Close)

	vsock, vsockConn, err := q.startVsock(ctx, c)
	if err != nil {
		return nil, err
	}
	undo.Add("stop the vsock device", func() error {
		<-vsock.Killed()
		removeSockets(c.Dir)
		return nil
	})
	lent.Add("close the vsock device's connection", vsockConn.Close)

	cmd := exec.Command(q.options.Binary)
	cmd.Dir = "/"
	cmd.Env = []string{"LANG=C"}
	pass := func(f *os.File) int {
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		return 2 + len(cmd.ExtraFiles)
	}
	fds := descriptors{vsock: pass(vsockConn)}
	if c.FSSocket != "" {
		fs, err := dialFile(ctx, c.FSSocket)
		if err != nil {
			return nil, fmt.Errorf("connect to the share's daemon: %w", err)
		}
		lent.Add("close the connection to the share's daemon", fs.Close)
		fds.fs = pass(fs)
	}
	monitor, monitorEnd, err := socketPair()
	if err != nil {
		return nil, err
	}
	undo.Add("close the monitor", func() error {
		// Its client closes it, too.
		if err := monitor.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	lent.Add("close qemu's end of the monitor", monitorEnd.Close)
	fds.qmp = pass(monitorEnd)
	output, outputEnd, err := socketPair()
	if err != nil {
		return nil, err
	}
	undo.Add("close the console", output.Close)
	lent.Add("close qemu's end of the console", outputEnd.Close)
	fds.console = pass(outputEnd)
	for _, n := range c.NICs {
		fds.taps = append(fds.taps, pass(n.Tap))
	}
	cmd.Args = append(cmd.Args, arguments(q.options.Accel, c, fds)...)

	qemu, err := process.Start(c.StartProcess, "qemu", cmd)
	if err != nil {
		return nil, err
	}
	undo.Add("stop qemu", func() error {
		<-qemu.Killed()
		return nil
	})
	// QEMU's end of a socket must be QEMU's alone, or its death would go unseen.
	if err := lent.Run(); err != nil {
		return nil, err
	}
	v := newVM(c, qemu, vsock)
	v.output, v.console, v.copied = output, con, make(chan struct{})
	go func() {
		defer close(v.copied)
		con.Copy(output)
	}()
	// The greeting comes when every device was made and the guest runs.
	v.monitor, err = qmp.Connect(ctx, monitor, v.handle)
	if err != nil {
		if ctx.Err() == nil {
			<-qemu.Killed()
			err = errors.Join(err, qemu.Failure())
		}
		return nil, err
	}
	undo.Release()
	go v.supervise()
	return v, nil
}

// vsockStartTimeout is generous: the daemon listens after 10 ms.
const vsockStartTimeout = 10 * time.Second

// startVsock starts the VM's vsock device and connects to it. The connection is
// for QEMU, which then needs neither a path nor a second try.
func (q *QEMU) startVsock(ctx context.Context, c hypervisor.Config) (*process.Process, *os.File, error) {
	// The device's own error does not name the folder in which it cannot make its sockets.
	if _, err := os.Stat(c.Dir); err != nil {
		return nil, nil, fmt.Errorf("the VM's folder: %w", err)
	}
	removeSockets(c.Dir)
	control := filepath.Join(c.Dir, vsockControl)
	cmd := exec.Command(q.options.VsockBinary,
		fmt.Sprintf("--guest-cid=%d", c.CID),
		"--socket="+control,
		"--uds-path="+hypervisor.VsockPath(c.Dir))
	cmd.Dir = "/"
	cmd.Env = []string{"LANG=C"}
	p, err := process.Start(c.StartProcess, "vhost-device-vsock", cmd)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, vsockStartTimeout)
	defer cancel()
	conn, err := dialStarting(ctx, control, p)
	if err != nil {
		<-p.Killed()
		removeSockets(c.Dir)
		return nil, nil, errors.Join(fmt.Errorf("connect to vhost-device-vsock: %w", err), p.Failure())
	}
	_ = os.Remove(control)
	return p, conn, nil
}

// dialStarting connects to the socket of a process that is still starting. The
// daemon cannot be given a socket that listens already, nor does it say when
// it listens, so this asks every few milliseconds.
func dialStarting(ctx context.Context, path string, p *process.Process) (*os.File, error) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		f, err := dialFile(ctx, path)
		if err == nil {
			return f, nil
		}
		// The dialler may notice the end of the time first, in words of its own.
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, context.DeadlineExceeded
		}
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ECONNREFUSED) {
			return nil, err
		}
		select {
		case <-tick.C:
		case <-p.Done():
			return nil, errors.New("it ended at once")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// dialFile connects to a Unix socket and returns the connection as a file that
// a child can inherit.
func dialFile(ctx context.Context, path string) (*os.File, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	f, err := conn.(*net.UnixConn).File()
	return f, errors.Join(err, conn.Close())
}

// socketPair returns our end and the child's end of a Unix socket.
func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "qemu"), os.NewFile(uintptr(fds[1]), "qemu")
	conn, err := net.FileConn(ours)
	err = errors.Join(err, ours.Close())
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	return conn.(*net.UnixConn), theirs, nil
}

// removeSockets removes the sockets of this or of a killed earlier VM: the
// daemon does not bind over them.
func removeSockets(dir string) {
	_ = os.Remove(hypervisor.VsockPath(dir))
	_ = os.Remove(filepath.Join(dir, vsockControl))
}
