package task

import (
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

// started ends what begin began.
func (p *process) started(ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.starting = false
	if ok && p.state == created {
		p.state = running
	}
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

// stop records the exit. It reports whether this call did: the first one
// decides.
func (p *process) stop(e exit) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == stopped {
		return false
	}
	p.state = stopped
	p.result = e
	close(p.done)
	return true
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
