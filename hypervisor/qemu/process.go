package qemu

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/nanoclaw/nanoclaw/hypervisor"
)

// maxDetail bounds what is kept of a process's standard error, and with it
// hypervisor.Exit.Detail.
const maxDetail = 4 << 10

// process is a child that one goroutine waits for.
type process struct {
	name   string
	cmd    *exec.Cmd
	stderr tail
	done   chan struct{} // closed when it is gone and reaped
	err    error         // of Wait; valid after done
}

func startProcess(start hypervisor.Starter, name string, cmd *exec.Cmd) (*process, error) {
	p := &process{name: name, cmd: cmd, stderr: tail{max: maxDetail / 2}, done: make(chan struct{})}
	cmd.Stderr = &p.stderr
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

func (p *process) pid() int { return p.cmd.Process.Pid }

// kill ends the process by force. It does nothing to one that is gone.
func (p *process) kill() { _ = p.cmd.Process.Kill() }

// killed kills the process and returns its done.
func (p *process) killed() <-chan struct{} {
	p.kill()
	return p.done
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// failure says how a process that is gone ended, in its own last words.
func (p *process) failure() error {
	text := p.name + " ended unasked"
	if p.err != nil {
		text = fmt.Sprintf("%s: %v", p.name, p.err)
	}
	if words := p.stderr.String(); words != "" {
		text += ": " + words
	}
	return errors.New(text)
}

// tail keeps the end of what is written to it.
type tail struct {
	max int
	mu  sync.Mutex
	buf []byte
}

// Write never fails and never keeps more than max bytes.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	if n > t.max {
		p = p[n-t.max:]
	}
	if over := len(t.buf) + len(p) - t.max; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	t.buf = append(t.buf, p...)
	return n, nil
}

// String returns the end as valid, trimmed text.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(strings.ToValidUTF8(string(t.buf), "?"))
}
