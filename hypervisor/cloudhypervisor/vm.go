package cloudhypervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/hypervisor/cloudhypervisor/internal/api"
	"github.com/nanoclaw/nanoclaw/hypervisor/hybridvsock"
	"github.com/nanoclaw/nanoclaw/hypervisor/internal/vmm"
	"github.com/nanoclaw/nanoclaw/internal/process"
)

const (
	// afterlife is how long a VMM whose VM has ended may take to exit.
	afterlife = 5 * time.Second
	// drainTime is how long the pipes of a process that is gone are read on:
	// somebody may have inherited them.
	drainTime = time.Second
	// reapTime is how long a VMM that hung up is given to be seen as gone.
	reapTime = time.Second
)

// vm is a running Cloud Hypervisor. One goroutine waits for the process and
// then for those that read its pipes.
type vm struct {
	dir     string
	process *process.Process
	client  *client
	console *vmm.Console
	events  *os.File
	output  *os.File

	mu      sync.Mutex
	cause   hypervisor.Cause // the first that was seen, or ""
	fault   error            // what of the VMM's own failed
	ending  *time.Timer      // kills a VMM that outlives its VM
	removed map[string]chan struct{}

	config  hypervisor.Config
	growing sync.Mutex
	size    hypervisor.Size // what it has; growing guards it

	done chan struct{} // closed when nothing is left
	exit hypervisor.Exit
}

var _ hypervisor.VM = (*vm)(nil)

func newVM(c hypervisor.Config, p *process.Process, con *vmm.Console, events, output *os.File) *vm {
	return &vm{
		dir:     c.Dir,
		process: p,
		client:  newClient(apiSocket(c.Dir)),
		console: con,
		events:  events,
		output:  output,
		removed: map[string]chan struct{}{},
		config:  c,
		size:    hypervisor.Size{CPUs: c.CPUs, Memory: c.Memory},
		done:    make(chan struct{}),
	}
}

// supervise sees to the end of a process that has started.
func (v *vm) supervise() {
	var readers sync.WaitGroup
	readers.Go(func() {
		if err := readEvents(v.events, v.onEvent); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			v.setFault(err)
			v.process.Kill()
		}
	})
	readers.Go(func() { v.console.Copy(v.output) })
	go func() {
		<-v.process.Done()
		at := time.Now()
		deadline := at.Add(drainTime)
		_ = v.events.SetReadDeadline(deadline)
		_ = v.output.SetReadDeadline(deadline)
		readers.Wait()
		_ = v.events.Close()
		_ = v.output.Close()
		_ = v.console.Close()
		removeSockets(v.dir)
		v.exit = v.verdict(at)
		close(v.done)
	}()
}

// onEvent takes note of events that tell of the VM's end. The hypervisor has no
// way to end at a guest's reset or panic, so that is done here; a guest that was
// reset may run on for the moment that takes.
func (v *vm) onEvent(e event) {
	switch e.Source + "/" + e.Event {
	case "guest/panic":
		v.setCause(hypervisor.CausePanic)
		v.process.Kill()
	case "vm/rebooting":
		v.setCause(hypervisor.CauseReset)
		v.process.Kill()
	case "vm/shutdown":
		v.mu.Lock()
		asked := v.cause != ""
		if v.ending == nil {
			v.ending = time.AfterFunc(afterlife, v.process.Kill)
		}
		v.mu.Unlock()
		if !asked {
			go v.poweredOff()
		}
	case "vm/deleted":
		// Of a guest that powered itself off, the cause is known by now.
		v.setFault(errors.New("cloud-hypervisor ended its VM by itself, as it does after a fault in one of its threads"))
	case "vm/device-removed":
		v.mu.Lock()
		if c, ok := v.removed[e.Properties["id"]]; ok {
			delete(v.removed, e.Properties["id"])
			close(c)
		}
		v.mu.Unlock()
	}
}

// poweredOff finds out why the VM was shut down without our asking. A hypervisor
// whose guest powered itself off goes on answering until it is told to end; one
// that ends after a fault, or at a signal, does not answer any more.
func (v *vm) poweredOff() {
	ctx, cancel := v.living(context.Background())
	defer cancel()
	if _, err := v.client.state(ctx); err != nil {
		return
	}
	v.setCause(hypervisor.CauseGuest)
	if err := v.client.shutdown(ctx); err != nil {
		v.process.Kill()
	}
}

// setCause keeps the first cause.
func (v *vm) setCause(c hypervisor.Cause) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.cause == "" {
		v.cause = c
	}
}

func (v *vm) setFault(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.cause == "" {
		v.cause, v.fault = hypervisor.CauseFailed, err
	}
}

// verdict says how a VM ended whose process is gone. The exit code alone means
// nothing: the hypervisor exits with 0 after faults of its own threads, too.
func (v *vm) verdict(at time.Time) hypervisor.Exit {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ending != nil {
		v.ending.Stop()
	}
	if v.cause != "" && v.cause != hypervisor.CauseFailed {
		return hypervisor.Exit{Cause: v.cause, At: at}
	}
	detail := v.process.Failure().Error()
	if v.fault != nil {
		detail = v.fault.Error()
		if words := v.process.Words(); words != "" {
			detail += ": " + words
		}
	}
	return hypervisor.Exit{Cause: hypervisor.CauseFailed, Detail: detail, At: at}
}

// PID is part of hypervisor.VM.
func (v *vm) PID() int { return v.process.PID() }

// Dial is part of hypervisor.VM. The device itself keeps the connection waiting
// while the guest boots.
func (v *vm) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	ctx, cancel := v.living(ctx)
	defer cancel()
	conn, err := hybridvsock.Dial(ctx, hypervisor.VsockPath(v.dir), port)
	return conn, v.stopped(err)
}

// AddNIC is part of hypervisor.VM.
func (v *vm) AddNIC(ctx context.Context, n hypervisor.NIC) error {
	if err := errors.Join(vmm.CheckNIC(n), checkMTU(n)); err != nil {
		return err
	}
	return v.call(ctx, func(ctx context.Context) error {
		return v.client.addNet(ctx, nicConfig(n), n.Tap)
	})
}

// RemoveNIC is part of hypervisor.VM. It returns when the guest has let the NIC
// go and its id may be used again.
func (v *vm) RemoveNIC(ctx context.Context, id string) error {
	if err := vmm.CheckNICID(id); err != nil {
		return err
	}
	gone := make(chan struct{})
	v.mu.Lock()
	_, busy := v.removed[id]
	if !busy {
		v.removed[id] = gone
	}
	v.mu.Unlock()
	if busy {
		return fmt.Errorf("NIC %s is being removed already", id)
	}
	defer func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.removed[id] == gone {
			delete(v.removed, id)
		}
	}()
	return v.call(ctx, func(ctx context.Context) error {
		if err := v.client.removeDevice(ctx, id); err != nil {
			return err
		}
		select {
		case <-gone:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("wait for the guest to let NIC %s go: %w", id, ctx.Err())
		}
	})
}

// Grow is part of hypervisor.VM.
func (v *vm) Grow(ctx context.Context, to hypervisor.Size) error {
	v.growing.Lock()
	defer v.growing.Unlock()
	if err := v.config.Check(v.size, to); err != nil {
		return err
	}
	var r api.Resize
	if to.CPUs > v.size.CPUs {
		r.DesiredVcpus = &to.CPUs
	}
	if to.Memory > v.size.Memory {
		r.DesiredRam = &to.Memory
	}
	if r == (api.Resize{}) {
		return nil
	}
	err := v.call(ctx, func(ctx context.Context) error { return v.client.resize(ctx, r) })
	if err == nil {
		v.size = to
	}
	return err
}

// Pause is part of hypervisor.VM.
func (v *vm) Pause(ctx context.Context) error { return v.become(ctx, "Paused", v.client.pause) }

// Resume is part of hypervisor.VM.
func (v *vm) Resume(ctx context.Context) error { return v.become(ctx, "Running", v.client.resume) }

// become makes a call unless the VM is in the wanted state, in which the
// hypervisor would refuse it.
func (v *vm) become(ctx context.Context, state string, call func(context.Context) error) error {
	return v.call(ctx, func(ctx context.Context) error {
		now, err := v.client.state(ctx)
		if err != nil || now == state {
			return err
		}
		return call(ctx)
	})
}

// call runs f until the end of the VM, and marks errors that come from that.
func (v *vm) call(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := v.living(ctx)
	defer cancel()
	return v.stopped(f(ctx))
}

// living returns a context that ends with the process.
func (v *vm) living(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-v.process.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// stopped marks errors that come from the VM's end.
func (v *vm) stopped(err error) error {
	if err == nil {
		return nil
	}
	// A call may fail before the process whose end it shows is reaped.
	for _, sign := range []error{io.EOF, io.ErrUnexpectedEOF, unix.ECONNREFUSED, unix.ECONNRESET, unix.EPIPE, unix.ENOENT} {
		if errors.Is(err, sign) {
			select {
			case <-v.process.Done():
			case <-time.After(reapTime):
			}
			break
		}
	}
	if v.ended() {
		return fmt.Errorf("%w: %w", hypervisor.ErrStopped, err)
	}
	return err
}

// ended reports whether the VM has ended or is about to.
func (v *vm) ended() bool {
	select {
	case <-v.process.Done():
		return true
	default:
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.cause != ""
}

// Stop is part of hypervisor.VM. Stopping a VM that has ended succeeds.
func (v *vm) Stop(ctx context.Context) error {
	v.setCause(hypervisor.CauseStopped)
	if err := v.client.shutdown(ctx); err != nil {
		v.process.Kill()
	}
	vmm.Await(ctx, v.done, v.process.Kill)
	return nil
}

// Kill is part of hypervisor.VM.
func (v *vm) Kill() {
	v.setCause(hypervisor.CauseStopped)
	v.process.Kill()
}

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
