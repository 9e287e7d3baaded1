package task

import (
	"context"
	"fmt"
	"sync"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/nanoclaw/nanoclaw/shim/stdio"
)

// state is where a process is in its life:
//
//	created ──► running ──► stopped
//	   └───────────────────────▲
//
// A container's init is created by Create, an exec by Exec. Pausing is the
// container's, not a process's.
type state int

const (
	created state = iota
	running
	stopped
)

// exit is how a process ended.
type exit struct {
	status uint32
	at     time.Time
	// oom is whether something was killed for want of memory.
	oom bool
}

// process is a container's init or an exec, as the host remembers it. State
// and Wait are answered from it, never from the guest.
type process struct {
	// exec is the exec's id; empty for init.
	exec  string
	paths stdio.Paths
	// spec is the exec's OCI process as JSON.
	spec []byte

	mu    sync.Mutex
	state state
	// starting is set while the guest is asked to start it.
	starting bool
	streams  *stdio.Set
	// stdinClosed is CloseIO's request, which may come before there are streams.
	stdinClosed bool
	result      exit
	// done is closed when the process is stopped.
	done chan struct{}
}

func newProcess(exec string, paths stdio.Paths) *process {
	return &process{exec: exec, paths: paths, done: make(chan struct{})}
}

func (p *process) name() string {
	if p.exec == "" {
		return "the container's init"
	}
	return "exec " + p.exec
}

// begin claims the right to start the process.
func (p *process) begin() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != created || p.starting {
		return fmt.Errorf("%s was started already: %w", p.name(), errdefs.ErrFailedPrecondition)
	}
	p.starting = true
	return nil
}

// failed gives that right back.
func (p *process) failed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.starting = false
}

// started says that what begin began has succeeded. It reports whether the
// process runs: it may have ended meanwhile.
func (p *process) started() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.starting = false
	if p.state != created {
		return false
	}
	p.state = running
	return true
}

// setStreams hands the process its streams.
func (p *process) setStreams(s *stdio.Set) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.streams = s
	if p.stdinClosed {
		s.CloseStdin()
	}
}

// firstOutput is when the process's first output came; zero where none has.
func (p *process) firstOutput() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams == nil {
		return time.Time{}
	}
	return p.streams.FirstOutput()
}

func (p *process) closeStdin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stdinClosed = true
	if p.streams != nil {
		p.streams.CloseStdin()
	}
}

func (p *process) closeStreams() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams != nil {
		p.streams.Close()
	}
}

// stop records the exit, and returns the state before. The first exit decides:
// stopping a stopped process changes nothing.
func (p *process) stop(e exit) state {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.state
	if was != stopped {
		p.state = stopped
		p.result = e
		close(p.done)
	}
	return was
}

// isStarting reports whether the guest is being asked to start it.
func (p *process) isStarting() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.starting
}

// drain waits for the output of a process, as stdio.Set.Drain does.
func (p *process) drain(ctx context.Context, stdout, stderr uint64) error {
	p.mu.Lock()
	streams := p.streams
	p.mu.Unlock()
	if streams == nil {
		return nil
	}
	return streams.Drain(ctx, stdout, stderr)
}

func (p *process) current() state {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// exited returns the exit of a stopped process.
func (p *process) exited() (exit, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.result, p.state == stopped
}

func (s state) status() tasktypes.Status {
	switch s {
	case created:
		return tasktypes.Status_CREATED
	case running:
		return tasktypes.Status_RUNNING
	}
	return tasktypes.Status_STOPPED
}

// timestamp is nil for no time.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
