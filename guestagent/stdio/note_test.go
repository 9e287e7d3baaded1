package stdio

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/api/stream"
	"github.com/nanoclaw/nanoclaw/api/stream/streamtest"
	"golang.org/x/sys/unix"
)

func TestNoteIsAmongTheOutput(t *testing.T) {
	o, w, host := output(t)
	p := &Process{stderr: o}
	_, err := w.WriteString("before\n")
	must(t, err)
	p.Note("told by the agent")
	_, err = w.WriteString("after\n")
	must(t, err)
	// It counts as output, or the shim would miss the last bytes.
	go func() { o.Drain(t.Context()) }()
	must(t, w.Close())
	got, err := io.ReadAll(stream.NewReader(host))
	if err != nil || string(got) != "before\ntold by the agent\nafter\n" {
		t.Errorf("%q, %v", got, err)
	}
	must(t, host.Close())
}

func TestNoteWaitsForNobody(t *testing.T) {
	r, w := pipe(t)
	guest, host := streamtest.Pipe()
	t.Cleanup(func() { _ = host.Close() })
	// Nothing reads, and the pipe is full.
	o, err := NewOutput(r, guest)
	must(t, err)
	must(t, unix.SetNonblock(int(w.Fd()), true))
	for err == nil {
		_, err = unix.Write(int(w.Fd()), make([]byte, 4096))
	}
	p := &Process{stderr: o}
	p.Note(strings.Repeat("x", 2*maxNote))
	o.Close()
	p.Note("nobody is there any more")
	(&Process{}).Note("and there never was")
}

// terminal returns both sides of one.
func terminal(t *testing.T) (pty, process *os.File) {
	t.Helper()
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	t.Cleanup(func() { _ = pty.Close() })
	must(t, unix.IoctlSetPointerInt(int(pty.Fd()), unix.TIOCSPTLCK, 0))
	must(t, unix.SetNonblock(int(pty.Fd()), true))
	name, err := unix.IoctlGetInt(int(pty.Fd()), unix.TIOCGPTN)
	must(t, err)
	process, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", name), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	t.Cleanup(func() { _ = process.Close() })
	return pty, process
}

func TestNoteGoesToTheTerminal(t *testing.T) {
	// A terminal that nobody has open reads as ended.
	pty, _ := terminal(t)
	guest, host := streamtest.Pipe()
	t.Cleanup(func() { _ = host.Close() })
	o, err := NewOutput(pty, guest)
	must(t, err)
	go o.Run()
	t.Cleanup(o.Close)
	(&Process{terminal: true, stdout: o}).Note("told")
	got := make([]byte, len("told\r\n"))
	if _, err := io.ReadFull(stream.NewReader(host), got); err != nil || string(got) != "told\r\n" {
		t.Errorf("%q, %v", got, err)
	}
}

// Who was refused a program may be gone before that is known.
func TestNoteComesAfterTheEnd(t *testing.T) {
	host := pairs{}
	p, err := Open(t.Context(), host, &agent.Stdio{Stdout: "a1", Stderr: "a2"}, os.Getuid(), os.Getgid())
	must(t, err)
	defer p.Close()
	p.Hold()
	cmd := exec.Command("/bin/sh", "-c", "echo last >&2")
	p.Set(cmd)
	must(t, cmd.Start())
	must(t, p.Started())
	must(t, cmd.Wait())
	got := make(chan string, 1)
	go func() {
		out, err := io.ReadAll(stream.NewReader(host["stderr"]))
		got <- fmt.Sprintf("%q %v", out, err)
		_ = host["stderr"].Close()
	}()
	// Stdout is not held, and ends with the process.
	out, err := io.ReadAll(stream.NewReader(host["stdout"]))
	if err != nil || len(out) > 0 {
		t.Errorf("stdout %q, %v", out, err)
	}
	must(t, host["stdout"].Close())
	p.Note("told")
	select {
	case out := <-got:
		t.Fatal("stderr has ended before it was released: ", out)
	case <-time.After(20 * time.Millisecond):
	}
	p.Release()
	if _, n := p.Drain(t.Context()); n != uint64(len("last\ntold\n")) {
		t.Errorf("Drain = %d", n)
	}
	if out := <-got; out != `"last\ntold\n" <nil>` {
		t.Error("stderr is ", out)
	}
	p.Wait()
	p.Note("nobody reads this")
}

func TestNoteComesAfterTheTerminalWasHungUp(t *testing.T) {
	pty, process := terminal(t)
	guest, host := streamtest.Pipe()
	t.Cleanup(func() { _ = host.Close() })
	p := &Process{terminal: true, conns: map[stream.Kind]net.Conn{stream.Stdout: guest}}
	t.Cleanup(p.Close)
	p.Hold()
	// The end of a session's leader hangs its terminal up.
	cmd := exec.Command("/bin/sh", "-c", "echo last")
	cmd.Stdin, cmd.Stdout = process, process
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	must(t, cmd.Start())
	must(t, process.Close())
	must(t, p.Terminal(pty))
	r := stream.NewReader(host)
	last := make([]byte, len("last\r\n"))
	if _, err := io.ReadFull(r, last); err != nil || string(last) != "last\r\n" {
		t.Errorf("%q, %v", last, err)
	}
	must(t, cmd.Wait())
	p.Note("told")
	p.Release()
	if n, _ := p.Drain(t.Context()); n != uint64(len("last\r\ntold\r\n")) {
		t.Errorf("Drain = %d", n)
	}
	rest, err := io.ReadAll(r)
	if err != nil || string(rest) != "told\r\n" {
		t.Errorf("then %q, %v", rest, err)
	}
	must(t, host.Close())
	p.Wait()
}
