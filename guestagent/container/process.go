package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/nanoclaw/nanoclaw/guestagent/reaper"
	"github.com/nanoclaw/nanoclaw/guestagent/stdio"
	"golang.org/x/sys/unix"
)

// drainTime is how long the output of a process that has exited may take to
// reach the host. Only a host that does not read needs it.
const drainTime = 10 * time.Second

// Result is how a process ended.
type Result struct {
	Status int
	At     time.Time
	// Stdout and Stderr are the bytes that the host gets of what the process
	// wrote until it exited.
	Stdout, Stderr uint64
	OOM            bool
}

// process is a container's init or an exec.
type process struct {
	child *reaper.Child
	io    *stdio.Process

	// finished is closed once result is set.
	finished chan struct{}
	result   Result
	// carried is closed once its streams have ended.
	carried chan struct{}
}

func newProcess(child *reaper.Child, io *stdio.Process) *process {
	return &process{child: child, io: io, finished: make(chan struct{}), carried: make(chan struct{})}
}

// watch completes the process after its exit and calls exited in between: when
// it is dead, and before anybody is told.
func (p *process) watch(exited func() (oom bool)) {
	<-p.child.Done()
	oom := exited()
	p.io.CloseInput()
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	stdout, stderr := p.io.Drain(ctx)
	e := p.child.Exit()
	p.result = Result{Status: e.Status, At: e.At, Stdout: stdout, Stderr: stderr, OOM: oom}
	close(p.finished)
}

func (p *process) wait(ctx context.Context) (Result, error) {
	select {
	case <-p.finished:
		return p.result, nil
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
}

func (p *process) signal(sig unix.Signal) error {
	err := p.child.Signal(sig)
	if errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	return err
}

// launch is what creating a process takes, in the order in which it is undone.
type launch struct {
	io      *stdio.Process
	console *stdio.ConsoleSocket
}

// open takes the streams and, with a terminal, listens for it.
func open(io *stdio.Process, dir string) (*launch, error) {
	l := &launch{io: io}
	if !io.IsTerminal() {
		return l, nil
	}
	var err error
	if l.console, err = stdio.NewConsoleSocket(dir); err != nil {
		io.Close()
		return nil, err
	}
	return l, nil
}

// close gives all up.
func (l *launch) close() {
	if l.console != nil {
		l.console.Close()
	}
	l.io.Close()
}

// carry connects the started process with its streams.
func (l *launch) carry(ctx context.Context) error {
	if l.console == nil {
		return l.io.Started()
	}
	defer l.console.Close()
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	pty, err := l.console.Receive(ctx)
	if err != nil {
		return err
	}
	return l.io.Terminal(pty)
}
