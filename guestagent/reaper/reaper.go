// Package reaper collects every exited child of PID 1 and hands each exit to
// whoever asked for that process.
//
// A container's process is a grandchild that becomes ours when crun, its
// parent, ends, and its PID is known only after that: it may have exited and
// been reaped by then. Whoever is about to start one says so with Expect, and
// from then on no exit is forgotten until that expectation is closed.
//
// It promises that a Signal never reaches another process that got the same
// PID: no process is reaped while a signal is being sent. It does not know
// what a process is for.
package reaper

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"time"

	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
)

// outputDelay is how long the output of a command that has exited is waited
// for, should a child of it hold the pipe open.
const outputDelay = 2 * time.Second

// Exit is how a process ended.
type Exit struct {
	PID int
	// Status is as a shell reports it: 0..255, 128+N for a signal.
	Status int
	At     time.Time
}

// Child is a process whose exit is being waited for.
type Child struct {
	pid    int
	reaper *Reaper
	done   chan struct{}
	exit   Exit
}

// PID returns the process's id in the VM.
func (c *Child) PID() int { return c.pid }

// Done is closed once the process has exited and been reaped.
func (c *Child) Done() <-chan struct{} { return c.done }

// Exit returns how the process ended. It may be called once Done is closed.
func (c *Child) Exit() Exit { return c.exit }

// Signal sends sig to the process. It returns os.ErrProcessDone after its exit.
func (c *Child) Signal(sig unix.Signal) error {
	c.reaper.mu.Lock()
	defer c.reaper.mu.Unlock()
	select {
	case <-c.done:
		return os.ErrProcessDone
	default:
	}
	if err := unix.Kill(c.pid, sig); err != nil {
		if err == unix.ESRCH {
			return os.ErrProcessDone
		}
		return fmt.Errorf("signal process %d: %w", c.pid, err)
	}
	return nil
}

// Reaper reaps. Its zero value is not ready: use New.
type Reaper struct {
	mu       sync.Mutex
	children map[int]*Child
	// expecting counts the open expectations; unclaimed holds what exited
	// while there was any.
	expecting int
	unclaimed map[int]Exit
}

// New returns a Reaper; nothing is reaped before Run.
func New() *Reaper {
	return &Reaper{children: make(map[int]*Child), unclaimed: make(map[int]Exit)}
}

// Run reaps until ctx is done. Only one Run may be active in a process, and
// nothing else in it may wait for children.
func (r *Reaper) Run(ctx context.Context) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGCHLD)
	defer signal.Stop(signals)
	for {
		// First of all, for what exited before the signal was asked for.
		r.reap()
		select {
		case <-signals:
		case <-ctx.Done():
			return
		}
	}
}

func (r *Reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		r.exitedLocked(Exit{PID: pid, Status: shellStatus(status), At: time.Now()})
	}
}

func (r *Reaper) exitedLocked(e Exit) {
	if c, ok := r.children[e.PID]; ok {
		delete(r.children, e.PID)
		c.exit = e
		close(c.done)
		return
	}
	if r.expecting > 0 {
		r.unclaimed[e.PID] = e
	}
}

func shellStatus(status unix.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// Expectation keeps exits of processes that were not claimed yet.
type Expectation struct {
	reaper *Reaper
	once   sync.Once
}

// Expect must be called before the process is started whose exit is wanted.
// The caller closes the expectation when it has claimed all it wants.
func (r *Reaper) Expect() *Expectation {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expecting++
	return &Expectation{reaper: r}
}

// Claim returns the process of that id, whether it still runs or has exited
// since the expectation began.
func (e *Expectation) Claim(pid int) *Child {
	r := e.reaper
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &Child{pid: pid, reaper: r, done: make(chan struct{})}
	if exit, ok := r.unclaimed[pid]; ok {
		delete(r.unclaimed, pid)
		c.exit = exit
		close(c.done)
		return c
	}
	r.children[pid] = c
	return c
}

// Close ends the expectation. It may be called more than once.
func (e *Expectation) Close() {
	e.once.Do(func() {
		r := e.reaper
		r.mu.Lock()
		defer r.mu.Unlock()
		r.expecting--
		if r.expecting == 0 {
			clear(r.unclaimed)
		}
	})
}

// Commands returns the reaper as the monitor that go-runc starts its commands
// with.
func (r *Reaper) Commands() runc.ProcessMonitor { return commands{r} }

type commands struct{ reaper *Reaper }

func (m commands) Start(c *exec.Cmd) (chan runc.Exit, error) {
	if c.WaitDelay == 0 {
		c.WaitDelay = outputDelay
	}
	expect := m.reaper.Expect()
	defer expect.Close()
	if err := c.Start(); err != nil {
		return nil, err
	}
	child := expect.Claim(c.Process.Pid)
	exits := make(chan runc.Exit, 1)
	go func() {
		<-child.Done()
		e := child.Exit()
		exits <- runc.Exit{Timestamp: e.At, Pid: e.PID, Status: e.Status}
		close(exits)
	}()
	return exits, nil
}

// StartLocked is Start: nothing of ours sets a parent-death signal, PID 1
// takes all with it.
func (m commands) StartLocked(c *exec.Cmd) (chan runc.Exit, error) { return m.Start(c) }

func (m commands) Wait(c *exec.Cmd, exits chan runc.Exit) (int, error) {
	e := <-exits
	// The process is reaped already, so the error says only that; Wait is
	// called for what it does besides: it completes the copying of output.
	_ = c.Wait()
	return e.Status, nil
}
