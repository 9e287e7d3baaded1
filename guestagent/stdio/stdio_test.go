package stdio

import (
	"bytes"
	"context"
	"errors"
	"github.com/nanoclaw/nanoclaw/api/stream/streamtest"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/api/stream"
	"golang.org/x/sys/unix"
)

func pipe(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		t.Fatal(err)
	}
	ours, theirs = os.NewFile(uintptr(fds[0]), "r"), os.NewFile(uintptr(fds[1]), "w")
	t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	return ours, theirs
}

func output(t *testing.T) (o *Output, process *os.File, host net.Conn) {
	t.Helper()
	r, w := pipe(t)
	guest, host := streamtest.Pipe()
	o, err := NewOutput(r, guest)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		o.Run()
	}()
	t.Cleanup(func() {
		o.Close()
		_ = host.Close()
		<-done
	})
	return o, w, host
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOutputArrivesWholeThenEnds(t *testing.T) {
	_, w, host := output(t)
	want := bytes.Repeat([]byte("0123456789"), 100_000)
	go func() {
		_, _ = w.Write(want)
		_ = w.Close()
	}()
	got, err := io.ReadAll(stream.NewReader(host))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v; want %d", len(got), err, len(want))
	}
}

func TestDrainWaitsForWhatWasWrittenAndNotForMore(t *testing.T) {
	o, w, host := output(t)
	// More frames than may be on their way at once.
	before := make([]byte, 3*stream.MaxFrame)
	_, err := w.Write(before)
	must(t, err)
	drained := make(chan uint64, 1)
	go func() { drained <- o.Drain(t.Context()) }()
	select {
	case <-drained:
		t.Fatal("Drain returned while the host had read nothing")
	case <-time.After(50 * time.Millisecond):
	}
	r := stream.NewReader(host)
	_, err = io.ReadFull(r, before)
	must(t, err)
	// The pipe is still open, by a descendant.
	if n := <-drained; n != uint64(len(before)) {
		t.Errorf("Drain = %d, want %d", n, len(before))
	}
	_, err = w.WriteString("after")
	must(t, err)
	must(t, w.Close())
	rest, err := io.ReadAll(r)
	if err != nil || string(rest) != "after" {
		t.Errorf("the rest is %q, %v", rest, err)
	}
	must(t, host.Close())
}

func TestDrainEndsWithItsContext(t *testing.T) {
	o, w, _ := output(t)
	_, err := w.WriteString("never read")
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if n := o.Drain(ctx); n != 10 {
		t.Errorf("Drain = %d, want the 10 that the host will get", n)
	}
}

func TestOutputGoesOnWhenTheHostHasClosed(t *testing.T) {
	o, w, host := output(t)
	must(t, host.Close())
	// Far more than a pipe holds: the process is not stopped.
	_, err := w.Write(make([]byte, 1<<20))
	must(t, err)
	if n := o.Drain(t.Context()); n != 0 {
		t.Errorf("Drain = %d", n)
	}
}

func TestInputArrivesWholeThenEnds(t *testing.T) {
	guest, host := streamtest.Pipe()
	r, w, err := os.Pipe()
	must(t, err)
	i := NewInput(guest, w, false)
	go i.Run()
	want := bytes.Repeat([]byte("abc"), 100_000)
	go func() {
		sw := stream.NewWriter(host)
		_, _ = sw.Write(want)
		_ = sw.CloseStream(time.Second)
	}()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

func TestInputIsTakenWhenTheProcessDoesNotRead(t *testing.T) {
	guest, host := streamtest.Pipe()
	r, w, err := os.Pipe()
	must(t, err)
	must(t, r.Close())
	i := NewInput(guest, w, false)
	go i.Run()
	sw := stream.NewWriter(host)
	_, err = sw.Write(make([]byte, 1<<20))
	must(t, err)
	must(t, sw.CloseStream(time.Second))
}

func TestInputThatIsCutEnds(t *testing.T) {
	guest, host := streamtest.Pipe()
	r, w, err := os.Pipe()
	must(t, err)
	i := NewInput(guest, w, false)
	go i.Run()
	must(t, host.Close())
	if got, err := io.ReadAll(r); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
}

type pairs map[string]net.Conn

func (p pairs) Take(_ context.Context, kind stream.Kind, id string) (net.Conn, error) {
	if strings.HasPrefix(id, "bad") {
		return nil, errors.New("no such stream")
	}
	guest, host := streamtest.Pipe()
	p[string(kind)] = host
	return guest, nil
}

func TestProcess(t *testing.T) {
	host := pairs{}
	p, err := Open(t.Context(), host, &agent.Stdio{Stdin: "a0", Stdout: "a1", Stderr: "a2"}, os.Getuid(), os.Getgid())
	must(t, err)
	defer p.Close()
	cmd := exec.Command("/bin/sh", "-c", "cat; echo err >&2; exec >&- 2>&-")
	p.Set(cmd)
	must(t, cmd.Start())
	must(t, p.Started())
	go func() {
		w := stream.NewWriter(host["stdin"])
		_, _ = w.Write([]byte("through"))
		_ = w.CloseStream(time.Second)
	}()
	errs := make(chan string, 1)
	go func() {
		out, _ := io.ReadAll(stream.NewReader(host["stderr"]))
		_ = host["stderr"].Close()
		errs <- string(out)
	}()
	out, err := io.ReadAll(stream.NewReader(host["stdout"]))
	if err != nil || string(out) != "through" {
		t.Errorf("stdout %q, %v", out, err)
	}
	must(t, host["stdout"].Close())
	if got := <-errs; got != "err\n" {
		t.Errorf("stderr %q", got)
	}
	must(t, cmd.Wait())
	if a, b := p.Drain(t.Context()); a != 7 || b != 4 {
		t.Errorf("Drain = %d, %d", a, b)
	}
	p.Wait()
	if err := p.Resize(1, 1); !errors.Is(err, ErrNoTerminal) {
		t.Errorf("Resize = %v", err)
	}
}

func TestOpenGivesUpWhatItTook(t *testing.T) {
	host := pairs{}
	if _, err := Open(t.Context(), host, &agent.Stdio{Stdout: "a1", Stderr: "bad"}, 0, 0); err == nil {
		t.Fatal("Open without a stream succeeds")
	}
	_ = host["stdout"].SetReadDeadline(time.Now().Add(time.Second))
	if _, err := host["stdout"].Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the stream that was taken is still open: %v", err)
	}
}

func TestValidate(t *testing.T) {
	for _, bad := range []*agent.Stdio{
		{Stdin: "XYZ"}, {Stdout: strings.Repeat("a", 65)}, {Stderr: "../.."}, {Terminal: true, Stderr: "aa"},
	} {
		if err := Validate(bad); !errors.Is(err, ErrRequest) {
			t.Errorf("Validate(%v) = %v", bad, err)
		}
	}
	for _, good := range []*agent.Stdio{nil, {}, {Terminal: true, Stdout: "aa"}} {
		if err := Validate(good); err != nil {
			t.Errorf("Validate(%v) = %v", good, err)
		}
	}
}

func TestConsoleSocketReceivesATerminal(t *testing.T) {
	s, err := NewConsoleSocket(t.TempDir())
	must(t, err)
	defer s.Close()
	go func() {
		conn, err := net.Dial("unix", s.Path())
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		f, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			return
		}
		defer func() { _ = f.Close() }()
		_, _, _ = conn.(*net.UnixConn).WriteMsgUnix([]byte("ptmx"), unix.UnixRights(int(f.Fd())), nil)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	pty, err := s.Receive(ctx)
	must(t, err)
	must(t, resize(pty, 80, 24))
	must(t, pty.Close())
}

func TestConsoleSocketDoesNotWaitForEver(t *testing.T) {
	s, err := NewConsoleSocket(t.TempDir())
	must(t, err)
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Receive(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Receive = %v", err)
	}
}
