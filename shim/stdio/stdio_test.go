package stdio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/api/stream"
	"github.com/nanoclaw/nanoclaw/api/stream/streamtest"
)

const patience = 10 * time.Second

// guest keeps the far ends of the streams that were opened, by kind.
type guest struct {
	refuse stream.Kind
	mu     sync.Mutex
	ends   map[stream.Kind]net.Conn
}

func (g *guest) OpenStream(_ context.Context, h stream.Header) (net.Conn, error) {
	if h.Kind == g.refuse {
		return nil, errRefused
	}
	host, there := streamtest.Pipe()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ends == nil {
		g.ends = map[stream.Kind]net.Conn{}
	}
	g.ends[h.Kind] = there
	return host, nil
}

var errRefused = errors.New("the guest refused the stream")

// end is the guest's end of a stream.
func (g *guest) end(t *testing.T, kind stream.Kind) net.Conn {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	conn := g.ends[kind]
	if conn == nil {
		t.Fatalf("no %s stream was opened", kind)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func mkfifo(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// client opens its end of a pipe as an engine does: before the shim, and without
// waiting for it.
func client(t *testing.T, path string, flag int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flag|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func newIDs() func() string {
	n := 0
	return func() string {
		n++
		return fmt.Sprintf("%02x", n)
	}
}

func open(t *testing.T, g *guest, p Paths) *Set {
	t.Helper()
	s, err := Open(t.Context(), g, p, newIDs())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// ended fails the test unless the far side closes conn.
func ended(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("the stream was not closed: %v", err)
	}
}

func TestOutputArrivesWholeThenEnds(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789abcde\n"), 8<<20/16)
	path := mkfifo(t, "out")
	reader := client(t, path, os.O_RDONLY)
	g := &guest{}
	s := open(t, g, Paths{Stdout: path})
	w := stream.NewWriter(g.end(t, stream.Stdout))
	sent := make(chan error, 1)
	go func() {
		_, err := w.Write(want)
		sent <- errors.Join(err, w.CloseStream(patience))
	}()
	got, err := io.ReadAll(reader)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d of %d bytes came, %v", len(got), len(want), err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if err := s.Drain(t.Context(), uint64(len(want)), 0); err != nil {
		t.Fatal(err)
	}
}

func TestDrainWaitsForTheLastByte(t *testing.T) {
	path := mkfifo(t, "out")
	reader := client(t, path, os.O_RDONLY)
	g := &guest{}
	s := open(t, g, Paths{Stdout: path})
	w := stream.NewWriter(g.end(t, stream.Stdout))
	if _, err := w.Write([]byte("first")); err != nil {
		t.Fatal(err)
	}
	drained := make(chan error, 1)
	go func() { drained <- s.Drain(context.Background(), 9, 0) }()
	select {
	case err := <-drained:
		t.Fatalf("Drain returned %v after 5 of 9 bytes", err)
	case <-time.After(50 * time.Millisecond):
	}
	if _, err := w.Write([]byte("last")); err != nil {
		t.Fatal(err)
	}
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	// What Drain promises is in the pipe: the stream is still open.
	got := make([]byte, 9)
	if _, err := io.ReadFull(reader, got); err != nil || string(got) != "firstlast" {
		t.Fatalf("read %q, %v", got, err)
	}
}

func TestDrainIsBounded(t *testing.T) {
	t.Run("nothing moves", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			out := &output{moved: make(chan struct{})}
			out.progress(3, false)
			began := time.Now()
			err := out.drain(t.Context(), 4)
			if err == nil || !strings.Contains(err.Error(), "3 of 4 bytes") || time.Since(began) != idleLimit {
				t.Fatalf("drain = %v after %s", err, time.Since(began))
			}
		})
	})
	t.Run("a slow consumer is waited for", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			out := &output{moved: make(chan struct{})}
			go func() {
				for range 10 {
					time.Sleep(idleLimit - time.Second)
					out.progress(1, false)
				}
			}()
			if err := out.drain(t.Context(), 10); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		out := &output{moved: make(chan struct{})}
		if err := out.drain(ctx, 1); !errors.Is(err, context.Canceled) {
			t.Fatalf("drain = %v", err)
		}
	})
	t.Run("the stream ended early", func(t *testing.T) {
		out := &output{moved: make(chan struct{})}
		out.progress(0, true)
		if err := out.drain(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("no stream", func(t *testing.T) {
		if err := (&Set{}).Drain(t.Context(), 1, 1); err != nil {
			t.Fatal(err)
		}
	})
}

// A container may close its output and live on; its client sees the end then.
func TestOutputEndsWhileTheOtherGoesOn(t *testing.T) {
	out, errPath := mkfifo(t, "out"), mkfifo(t, "err")
	outReader, errReader := client(t, out, os.O_RDONLY), client(t, errPath, os.O_RDONLY)
	g := &guest{}
	s := open(t, g, Paths{Stdout: out, Stderr: errPath})
	if err := stream.NewWriter(g.end(t, stream.Stdout)).CloseStream(patience); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(outReader); err != nil || len(got) != 0 {
		t.Fatalf("stdout: %q, %v", got, err)
	}
	if _, err := stream.NewWriter(g.end(t, stream.Stderr)).Write([]byte("alive")); err != nil {
		t.Fatal(err)
	}
	if err := s.Drain(t.Context(), 0, 5); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(errReader, got); err != nil || string(got) != "alive" {
		t.Fatalf("stderr: %q, %v", got, err)
	}
}

// An agent or a VM that dies cuts its streams: what came is passed on, and the
// client sees the end.
func TestOutputCutByTheGuest(t *testing.T) {
	path := mkfifo(t, "out")
	reader := client(t, path, os.O_RDONLY)
	g := &guest{}
	s := open(t, g, Paths{Stdout: path})
	conn := g.end(t, stream.Stdout)
	if _, err := stream.NewWriter(conn).Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if got, err := io.ReadAll(reader); err != nil || string(got) != "last words" {
		t.Fatalf("read %q, %v", got, err)
	}
	if err := s.Drain(t.Context(), 1<<40, 0); err != nil {
		t.Fatal(err)
	}
}

// A client that does not read holds its process, and neither Close nor others.
func TestCloseWithABlockedReader(t *testing.T) {
	path := mkfifo(t, "out")
	reader := client(t, path, os.O_RDONLY)
	g := &guest{}
	s := open(t, g, Paths{Stdout: path})
	conn := g.end(t, stream.Stdout)
	stuck := make(chan error, 1)
	go func() {
		_, err := stream.NewWriter(conn).Write(make([]byte, 1<<20))
		stuck <- err
	}()
	select {
	case err := <-stuck:
		t.Fatalf("the process was not held back: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	s.Close()
	if err := <-stuck; err == nil {
		t.Fatal("the writer was not told of the end")
	}
	if _, err := io.Copy(io.Discard, reader); err != nil {
		t.Fatalf("the client's pipe has no end: %v", err)
	}
	s.Close()
}

// An engine that restarts leaves its pipes and opens them again.
func TestClientGoesAndComesBack(t *testing.T) {
	path := mkfifo(t, "out")
	first := client(t, path, os.O_RDONLY)
	g := &guest{}
	s := open(t, g, Paths{Stdout: path})
	w := stream.NewWriter(g.end(t, stream.Stdout))
	_ = first.Close()
	if _, err := w.Write([]byte("meanwhile")); err != nil {
		t.Fatal(err)
	}
	if err := s.Drain(t.Context(), 9, 0); err != nil {
		t.Fatal(err)
	}
	second := client(t, path, os.O_RDONLY)
	if err := w.CloseStream(patience); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(second); err != nil || string(got) != "meanwhile" {
		t.Fatalf("read %q, %v", got, err)
	}
}

func TestOutputToFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("old "), 0o600); err != nil {
		t.Fatal(err)
	}
	for target, path := range map[string]string{"file://" + file: file, plain: plain} {
		g := &guest{}
		s := open(t, g, Paths{Stdout: target})
		w := stream.NewWriter(g.end(t, stream.Stdout))
		if _, err := w.Write([]byte("line")); err != nil {
			t.Fatal(err)
		}
		if err := s.Drain(t.Context(), 4, 0); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || !strings.HasSuffix(string(got), "line") || (path == plain) != strings.HasPrefix(string(got), "old ") {
			t.Fatalf("%s holds %q, %v", target, got, err)
		}
	}
}

// A log that cannot be written (a full disk) must not stop the process or its
// exit: output is lost, as under runc.
func TestOutputToAFullDisk(t *testing.T) {
	g := &guest{}
	s := open(t, g, Paths{Stdout: "file:///dev/full"})
	w := stream.NewWriter(g.end(t, stream.Stdout))
	if _, err := w.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := s.Drain(t.Context(), 1<<20, 0); err != nil {
		t.Fatal(err)
	}
}

func TestTerminalHasOneOutput(t *testing.T) {
	path := mkfifo(t, "out")
	client(t, path, os.O_RDONLY)
	g := &guest{}
	s := open(t, g, Paths{Stdout: path, Stderr: "/is/not/opened", Terminal: true})
	if names := s.Stdio(); !names.GetTerminal() || names.GetStdout() != "01" || names.GetStderr() != "" || names.GetStdin() != "" {
		t.Fatalf("named %v", names)
	}
}

func TestOpenFails(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		paths  Paths
		refuse stream.Kind
		is     error
		says   string
	}{
		{"stdout is missing", Paths{Stdout: missing}, "", os.ErrNotExist, missing},
		{"stderr is missing", Paths{Stderr: missing}, "", os.ErrNotExist, missing},
		{"stdin is missing", Paths{Stdin: missing}, "", os.ErrNotExist, missing},
		{"stdin is a file", Paths{Stdin: file}, "", errdefs.ErrInvalidArgument, file},
		{"an unknown kind", Paths{Stdout: "npipe:///x"}, "", errdefs.ErrNotImplemented, "npipe://"},
		{"no logging program", Paths{Stdout: "binary://" + missing}, "", os.ErrNotExist, missing},
		{"a relative one", Paths{Stdout: "binary:logger"}, "", errdefs.ErrInvalidArgument, "absolute"},
		{"no URL", Paths{Stdout: "a%zz"}, "", nil, "a%zz"},
		{"stdout is refused", Paths{Stdout: "fifo"}, stream.Stdout, errRefused, ""},
		{"stderr is refused", Paths{Stdout: "fifo", Stderr: "fifo"}, stream.Stderr, errRefused, ""},
		{"stdin is refused", Paths{Stdout: "fifo", Stdin: "fifo"}, stream.Stdin, errRefused, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			readers := map[string]*os.File{}
			for _, p := range []*string{&tt.paths.Stdout, &tt.paths.Stderr, &tt.paths.Stdin} {
				if *p != "fifo" {
					continue
				}
				*p = mkfifo(t, "p")
				if p != &tt.paths.Stdin {
					readers[*p] = client(t, *p, os.O_RDONLY)
				}
			}
			g := &guest{refuse: tt.refuse}
			_, err := Open(t.Context(), g, tt.paths, newIDs())
			if err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("Open = %v", err)
			}
			// What was opened before is closed again.
			for path, r := range readers {
				if _, err := io.Copy(io.Discard, r); err != nil {
					t.Fatalf("%s is left open: %v", path, err)
				}
			}
			for kind := range g.ends {
				ended(t, g.end(t, kind))
			}
		})
	}
}

// A client that never opens its end must not hold a create for ever: the call's
// own context ends it.
func TestOpenWithoutAReader(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	result := make(chan error, 1)
	path := mkfifo(t, "out")
	go func() {
		_, err := Open(ctx, &guest{}, Paths{Stdout: path}, newIDs())
		result <- err
	}()
	select {
	case err := <-result:
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), path) {
			t.Fatalf("Open = %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Open waits for a reader that does not come")
	}
}

func TestInputArrivesWholeThenEnds(t *testing.T) {
	want := bytes.Repeat([]byte("fedcba987654321\n"), 8<<20/16)
	path := mkfifo(t, "in")
	g := &guest{}
	s := open(t, g, Paths{Stdin: path})
	writer := client(t, path, os.O_WRONLY)
	go func() {
		_, _ = writer.Write(want)
		_ = writer.Close()
		s.CloseStdin()
	}()
	conn := g.end(t, stream.Stdin)
	got, err := io.ReadAll(stream.NewReader(conn))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d of %d bytes came, %v", len(got), len(want), err)
	}
}

// Only CloseStdin ends the input, not a client that went away.
func TestInputOutlivesItsClient(t *testing.T) {
	path := mkfifo(t, "in")
	g := &guest{}
	s := open(t, g, Paths{Stdin: path})
	r := stream.NewReader(g.end(t, stream.Stdin))
	for _, word := range []string{"one", "two"} {
		w := client(t, path, os.O_WRONLY)
		if _, err := w.WriteString(word); err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
		got := make([]byte, 3)
		if _, err := io.ReadFull(r, got); err != nil || string(got) != word {
			t.Fatalf("read %q, %v; want %s", got, err, word)
		}
	}
	s.CloseStdin()
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("the input ended with %v", err)
	}
}

// An exec without input: its client has gone, and CloseIO come, before anything
// was opened.
func TestInputThatEndsAtOnce(t *testing.T) {
	for range 50 {
		g := &guest{}
		s := open(t, g, Paths{Stdin: mkfifo(t, "in")})
		s.CloseStdin()
		s.CloseStdin()
		if got, err := io.ReadAll(stream.NewReader(g.end(t, stream.Stdin))); err != nil || len(got) != 0 {
			t.Fatalf("read %q, %v", got, err)
		}
	}
}

// A process that does not read its input, or has closed it, holds nobody but the
// writer.
func TestInputNobodyReads(t *testing.T) {
	for name, end := range map[string]func(*Set, net.Conn){
		"closed by the process": func(_ *Set, conn net.Conn) { _ = conn.Close() },
		"closed by the shim":    func(s *Set, _ net.Conn) { s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			path := mkfifo(t, "in")
			g := &guest{}
			s := open(t, g, Paths{Stdin: path})
			writer := client(t, path, os.O_WRONLY)
			conn := g.end(t, stream.Stdin)
			stuck := make(chan error, 1)
			go func() {
				_, err := writer.Write(make([]byte, 1<<20))
				stuck <- err
			}()
			select {
			case err := <-stuck:
				t.Fatalf("the writer was not held back: %v", err)
			case <-time.After(50 * time.Millisecond):
			}
			end(s, conn)
			if err := <-stuck; !errors.Is(err, syscall.EPIPE) {
				t.Fatalf("the writer ended with %v", err)
			}
		})
	}
}
