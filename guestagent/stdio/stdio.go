// Package stdio joins a process's pipes or terminal to the streams that the
// host opened for them.
//
// It promises that nothing is buffered without bound, that output is carried
// in order and whole, and that it can say how many bytes a process had
// written when it exited. It does not decide when a process has exited.
package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/api/stream"
	"golang.org/x/sys/unix"
)

// ErrNoTerminal is returned by Resize for a process without one.
var ErrNoTerminal = errors.New("the process has no terminal")

// ErrRequest is wrapped by the errors for a Stdio that no process can have.
var ErrRequest = errors.New("invalid stdio")

// Streams hands out the connections that the host opened.
type Streams interface {
	// Take waits for the connection of that kind and id.
	Take(ctx context.Context, kind stream.Kind, id string) (net.Conn, error)
}

// Validate checks what the host asked for.
func Validate(s *agent.Stdio) error {
	if s == nil {
		return nil
	}
	for _, id := range []string{s.GetStdin(), s.GetStdout(), s.GetStderr()} {
		if id != "" && !stream.ValidID(id) {
			return fmt.Errorf("%w: stream id %.70q is not 1 to %d of [0-9a-f]", ErrRequest, id, agent.MaxStreamID)
		}
	}
	if s.GetTerminal() && s.GetStderr() != "" {
		return fmt.Errorf("%w: a terminal has no stderr", ErrRequest)
	}
	return nil
}

// Process is one process's stdin, stdout and stderr. It is used in this order:
// Open, Set and Started around the start of the process (or, with a terminal,
// Terminal), then Drain when it has exited, and Close in the end, whatever
// happened before. Where there is something to Note, Hold comes before the start
// and Release before Drain.
type Process struct {
	terminal bool
	conns    map[stream.Kind]net.Conn
	// child is what the process gets as its descriptors 0, 1, 2.
	child [3]*os.File
	// ours is the other end of each.
	ours [3]*os.File
	// hold: held is wanted.
	hold bool
	// held is a writing end of stderr, or of the terminal, that keeps it from
	// ending.
	held *os.File

	pty    *os.File
	input  *Input
	stdout *Output
	stderr *Output
	run    sync.WaitGroup
	closed sync.Once
}

var kinds = [3]stream.Kind{stream.Stdin, stream.Stdout, stream.Stderr}

// Open takes the host's connections and makes what the process needs: pipes
// that uid and gid own, so that it can open /dev/stdout again, or nothing yet
// with a terminal.
func Open(ctx context.Context, streams Streams, s *agent.Stdio, uid, gid int) (_ *Process, err error) {
	p := &Process{terminal: s.GetTerminal(), conns: make(map[stream.Kind]net.Conn)}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	for i, id := range []string{s.GetStdin(), s.GetStdout(), s.GetStderr()} {
		if id != "" {
			conn, err := streams.Take(ctx, kinds[i], id)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", kinds[i], err)
			}
			p.conns[kinds[i]] = conn
		}
		if err := p.openChild(i, id != "" && !p.terminal, uid, gid); err != nil {
			return nil, fmt.Errorf("%s: %w", kinds[i], err)
		}
	}
	return p, nil
}

func (p *Process) openChild(i int, piped bool, uid, gid int) error {
	if !piped {
		f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		p.child[i] = f
		return err
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	child, ours := fds[1], fds[0]
	if i == 0 {
		child, ours = fds[0], fds[1]
	}
	err := errors.Join(unix.Fchown(child, uid, gid), unix.SetNonblock(ours, true))
	p.child[i] = os.NewFile(uintptr(child), string(kinds[i]))
	p.ours[i] = os.NewFile(uintptr(ours), string(kinds[i]))
	return err
}

// Set gives cmd, which is to become or to start the process, its descriptors.
func (p *Process) Set(cmd *exec.Cmd) {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.child[0], p.child[1], p.child[2]
}

// IsTerminal reports whether the process is to have a terminal.
func (p *Process) IsTerminal() bool { return p.terminal }

// Hold has stderr, or the terminal, stay open for Note until Release, whoever of
// the process's has closed it or is gone. It is called before Started or
// Terminal.
func (p *Process) Hold() { p.hold = true }

// Release ends what Hold began: there is nothing to note any more. What was
// noted is among the output that Drain waits for.
func (p *Process) Release() {
	if p.held != nil {
		_ = p.held.Close()
	}
}

// Started begins to carry, without a terminal. The process has its descriptors
// by now.
func (p *Process) Started() error {
	if p.hold && p.ours[2] != nil {
		p.held, p.child[2] = p.child[2], nil
	}
	p.closeChild()
	if f := p.ours[0]; f != nil {
		p.input = NewInput(p.conns[stream.Stdin], f, false)
		p.run.Go(p.input.Run)
	}
	var err error
	if p.stdout, err = p.output(1); err != nil {
		return err
	}
	p.stderr, err = p.output(2)
	return err
}

func (p *Process) output(i int) (*Output, error) {
	if p.ours[i] == nil {
		return nil, nil
	}
	o, err := NewOutput(p.ours[i], p.conns[kinds[i]])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kinds[i], err)
	}
	p.run.Go(o.Run)
	return o, nil
}

// Terminal begins to carry to and from pty, which is p's own from now on.
func (p *Process) Terminal(pty *os.File) error {
	p.closeChild()
	p.pty = pty
	if conn := p.conns[stream.Stdin]; conn != nil {
		p.input = NewInput(conn, pty, true)
		p.run.Go(p.input.Run)
	}
	conn := p.conns[stream.Stdout]
	if conn == nil {
		// Somebody must read, or the process would stop when the terminal is full.
		p.run.Go(func() { _, _ = io.Copy(io.Discard, pty) })
		return nil
	}
	o, err := NewOutput(pty, conn)
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	if p.hold {
		p.holdTerminal(o)
	}
	p.stdout = o
	p.run.Go(o.Run)
	return nil
}

// holdTerminal leaves it where it cannot be opened: a line that may be missing
// is no reason to end a process.
func (p *Process) holdTerminal(o *Output) {
	_ = o.raw.Control(func(pty uintptr) {
		if fd, err := peer(int(pty)); err == nil {
			p.held = os.NewFile(uintptr(fd), "terminal")
		}
	})
}

// Resize sets the size of the terminal, in characters.
func (p *Process) Resize(width, height uint16) error {
	if p.pty == nil {
		return ErrNoTerminal
	}
	return resize(p.pty, width, height)
}

// Drain is called when the process has exited. It returns once what it wrote
// is with the host, or ctx is done, and how many bytes that is in all.
func (p *Process) Drain(ctx context.Context) (stdout, stderr uint64) {
	if p.stdout != nil {
		stdout = p.stdout.Drain(ctx)
	}
	if p.stderr != nil {
		stderr = p.stderr.Drain(ctx)
	}
	return stdout, stderr
}

// CloseInput ends stdin, for a process that has exited.
func (p *Process) CloseInput() {
	if p.input != nil {
		p.input.Close()
	}
}

// Wait returns once nothing is carried any more.
func (p *Process) Wait() { p.run.Wait() }

// Close ends everything at once and waits until nothing is carried any more.
func (p *Process) Close() {
	p.closed.Do(func() {
		p.closeChild()
		p.Release()
		p.CloseInput()
		for _, o := range []*Output{p.stdout, p.stderr} {
			if o != nil {
				o.Close()
			}
		}
		for _, f := range p.ours {
			if f != nil {
				_ = f.Close()
			}
		}
		for _, c := range p.conns {
			_ = c.Close()
		}
		if p.pty != nil {
			_ = p.pty.Close()
		}
		p.run.Wait()
	})
}

func (p *Process) closeChild() {
	for i, f := range p.child {
		if f != nil {
			_ = f.Close()
			p.child[i] = nil
		}
	}
}
