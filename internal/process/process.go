// Package process is a child process of ours that one goroutine waits for and
// whose last words are kept: a VMM, or a helper of one.
//
// What it says on standard error is bounded, since it may be in a guest's hands.
// Where it runs (namespaces, cgroup, user) is its starter's business.
package process

import (
	"errors"
	"fmt"
	"os/exec"
	"time"
)

// Process is a started process. Its methods are safe for concurrent use.
type Process struct {
	name  string
	cmd   *exec.Cmd
	words tail
	done  chan struct{} // closed when it is gone and reaped
	err   error         // of Wait; valid after done
}

// Start starts cmd with start, which is like exec.Cmd.Start, and waits for its
// end in the background. The name is for messages.
func Start(start func(*exec.Cmd) error, name string, cmd *exec.Cmd) (*Process, error) {
	p := &Process{name: name, cmd: cmd, words: tail{max: MaxWords}, done: make(chan struct{})}
	cmd.Stderr = &p.words
	// Somebody who inherited standard error must not hold up the reaping.
	cmd.WaitDelay = time.Second
	if err := start(cmd); err != nil {
		return nil, fmt.Errorf("run %s: %w", name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID is the process's, also after its end.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill ends the process by force. It does nothing to one that is gone.
func (p *Process) Kill() { _ = p.cmd.Process.Kill() }

// Killed kills the process and returns Done.
func (p *Process) Killed() <-chan struct{} {
	p.Kill()
	return p.done
}

// Done is closed when the process is gone and reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Ended reports whether Done is closed.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Words are the last that the process said so far, at most MaxWords bytes.
func (p *Process) Words() string { return p.words.String() }

// Failure says how a process ended that should not have, in its own last words.
// It is valid after Done.
func (p *Process) Failure() error {
	text := p.name + " ended unasked"
	if p.err != nil {
		text = fmt.Sprintf("%s: %v", p.name, p.err)
	}
	if words := p.Words(); words != "" {
		text += ": " + words
	}
	return errors.New(text)
}
