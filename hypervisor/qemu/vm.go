package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/hypervisor/hybridvsock"
	"github.com/nanoclaw/nanoclaw/hypervisor/internal/vmm"
	"github.com/nanoclaw/nanoclaw/hypervisor/qemu/internal/qmp"
	"github.com/nanoclaw/nanoclaw/internal/process"
)

// endGrace is how long QEMU may take to end after it said that it will, or
// after it closed its monitor.
const endGrace = 5 * time.Second

// How long after one another a guest that is still booting is dialled, at first and
// at most. vhost-device-vsock 0.3 keeps something of every attempt: after a thousand
// of them the guest's own connections time out.
const (
	dialInterval    = 20 * time.Millisecond
	maxDialInterval = time.Second
)

// vm is a running QEMU and its vsock device. One goroutine, supervise, sees to
// their end.
type vm struct {
	dir     string
	qemu    *process.Process
	vsock   *process.Process
	output  *net.UnixConn // of the guest's console
	console *vmm.Console  // where it goes
	copied  chan struct{} // closed when all of output was copied
	monitor *qmp.Client
	nics    nics

	config  hypervisor.Config
	growing sync.Mutex
	size    hypervisor.Size // what it has; growing guards it

	mu       sync.Mutex
	cause    hypervisor.Cause // what QEMU said of the guest's end, or ""
	stopping bool             // Stop or Kill was called

	done chan struct{}
	exit hypervisor.Exit // valid after done
}

var _ hypervisor.VM = (*vm)(nil)

func newVM(c hypervisor.Config, qemu, vsock *process.Process) *vm {
	v := &vm{
		dir:    c.Dir,
		qemu:   qemu,
		vsock:  vsock,
		config: c,
		size:   hypervisor.Size{CPUs: c.CPUs, Memory: c.Memory},
		done:   make(chan struct{}),
	}
	v.nics.init(c.NICs)
	return v
}

// supervise waits for the end of either process, ends the other, and says why.
func (v *vm) supervise() {
	vsockFailed := false
	select {
	case <-v.qemu.Done():
	case <-v.vsock.Done():
		// Said before QEMU notices: its VM would go on without a way to the guest.
		vsockFailed = !v.qemu.Ended()
	case <-v.monitor.Done():
		// Without its monitor a VM cannot be stopped in order; usually it is ending.
		v.killAfterGrace()
	}
	if vsockFailed {
		v.qemu.Kill()
	}
	<-v.qemu.Done()
	v.drain()
	<-v.vsock.Killed()
	removeSockets(v.dir)
	v.exit = v.verdict(vsockFailed)
	close(v.done)
}

// drain reads what QEMU said before it ended. The end of both sockets comes with
// QEMU's, unless a process that somebody else started just then holds a copy.
func (v *vm) drain() {
	deadline := time.NewTimer(time.Second)
	defer deadline.Stop()
	select {
	case <-v.monitor.Done():
	case <-deadline.C:
	}
	v.monitor.Close()
	_ = v.output.SetReadDeadline(time.Now().Add(time.Second))
	<-v.copied
	// Nothing can be done about either, and nothing is lost.
	_, _ = v.output.Close(), v.console.Close()
}

// killAfterGrace kills a QEMU that does not end by itself.
func (v *vm) killAfterGrace() {
	t := time.NewTimer(endGrace)
	go func() {
		defer t.Stop()
		select {
		case <-t.C:
			v.qemu.Kill()
		case <-v.qemu.Done():
		}
	}()
}

// verdict says how the VM ended. What the guest did comes before what the shim
// wanted, and both before a failure: killing a VM that has just powered itself
// off does not make that a failure.
func (v *vm) verdict(vsockFailed bool) hypervisor.Exit {
	v.mu.Lock()
	defer v.mu.Unlock()
	e := hypervisor.Exit{Cause: v.cause, At: time.Now()}
	switch {
	case e.Cause != "":
	case v.stopping:
		e.Cause = hypervisor.CauseStopped
	case vsockFailed:
		e.Cause, e.Detail = hypervisor.CauseFailed, v.vsock.Failure().Error()
	default:
		e.Cause, e.Detail = hypervisor.CauseFailed, v.qemu.Failure().Error()
	}
	return e
}

// handle takes QEMU's events. It runs on the monitor's goroutine.
func (v *vm) handle(e qmp.Event) {
	switch e.Name {
	case "SHUTDOWN":
		v.guestEnded(shutdownCause(e.Data))
	case "GUEST_PANICKED":
		v.guestEnded(hypervisor.CausePanic)
	case "DEVICE_DELETED":
		v.nics.deleted(e.Data)
	}
}

// shutdownCause reads a SHUTDOWN event. Its reasons on the host's side say
// nothing that is not known already.
func shutdownCause(data json.RawMessage) hypervisor.Cause {
	var d struct {
		Reason string `json:"reason"`
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return ""
	}
	switch d.Reason {
	case "guest-shutdown":
		return hypervisor.CauseGuest
	case "guest-reset":
		return hypervisor.CauseReset
	case "guest-panic":
		return hypervisor.CausePanic
	}
	return ""
}

// guestEnded notes the first cause: a panic is followed by a shutdown.
func (v *vm) guestEnded(c hypervisor.Cause) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if c == "" || v.cause != "" {
		return
	}
	v.cause = c
	v.killAfterGrace()
}

// PID is part of hypervisor.VM.
func (v *vm) PID() int { return v.qemu.PID() }

// Done is part of hypervisor.VM.
func (v *vm) Done() <-chan struct{} { return v.done }

// Exit is part of hypervisor.VM.
func (v *vm) Exit() hypervisor.Exit {
	select {
	case <-v.done:
		return v.exit
	default:
		return hypervisor.Exit{}
	}
}

// Dial is part of hypervisor.VM.
func (v *vm) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-v.qemu.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	for interval := dialInterval; ; interval = min(2*interval, maxDialInterval) {
		conn, err := hybridvsock.Dial(ctx, hypervisor.VsockPath(v.dir), port)
		// A device that no guest drives yet drops a connection unread; one whose
		// guest refuses reads the request first.
		if !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
			return conn, v.stopped(err)
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return nil, v.stopped(errors.Join(ctx.Err(), err))
		}
	}
}

// Pause is part of hypervisor.VM.
func (v *vm) Pause(ctx context.Context) error { return v.command(ctx, "stop", nil) }

// Resume is part of hypervisor.VM.
func (v *vm) Resume(ctx context.Context) error { return v.command(ctx, "cont", nil) }

// command runs a command on the monitor.
func (v *vm) command(ctx context.Context, name string, args any) error {
	return v.stopped(v.monitor.Execute(ctx, name, args))
}

// stopped marks errors that come from the VM's end.
func (v *vm) stopped(err error) error {
	if err != nil && (v.qemu.Ended() || errors.Is(err, qmp.ErrClosed)) {
		return fmt.Errorf("%w: %w", hypervisor.ErrStopped, err)
	}
	return err
}

// Stop is part of hypervisor.VM. Stopping a VM that has ended succeeds.
func (v *vm) Stop(ctx context.Context) error {
	v.setStopping()
	if err := v.monitor.Execute(ctx, "quit", nil); err != nil {
		v.qemu.Kill()
	}
	vmm.Await(ctx, v.done, v.qemu.Kill)
	return nil
}

// Kill is part of hypervisor.VM.
func (v *vm) Kill() {
	v.setStopping()
	v.qemu.Kill()
}

func (v *vm) setStopping() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stopping = true
}
