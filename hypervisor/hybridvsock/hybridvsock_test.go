package hybridvsock

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// device answers one CONNECT on a socket and then runs then.
func device(t *testing.T, answer string, then func(net.Conn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "v.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		if _, err := conn.Read(make([]byte, 64)); err != nil {
			return
		}
		if _, err := io.WriteString(conn, answer); err != nil {
			return
		}
		then(conn)
	}()
	return path
}

func TestDialLeavesTheGuestsFirstBytes(t *testing.T) {
	path := device(t, "OK 1073741824\nhello", func(net.Conn) {})
	conn, err := Dial(context.Background(), path, 1025)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "hello" {
		t.Fatalf("read %q, %v; want hello", got, err)
	}
}

func TestDialRefused(t *testing.T) {
	path := device(t, "", func(net.Conn) {})
	if _, err := Dial(context.Background(), path, 1); !errors.Is(err, ErrRefused) {
		t.Fatalf("got %v, want ErrRefused", err)
	}
}

func TestDialRefusesOtherAnswers(t *testing.T) {
	for _, answer := range []string{"NO\n", "OK\n", string(bytes.Repeat([]byte("x"), 100))} {
		path := device(t, answer, func(net.Conn) {})
		if _, err := Dial(context.Background(), path, 1); err == nil {
			t.Errorf("Dial accepted the answer %q", answer)
		}
	}
}

func TestDialEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	path := device(t, "", func(net.Conn) { <-time.After(5 * time.Second) })
	if _, err := Dial(ctx, path, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want DeadlineExceeded", err)
	}
}

func TestListenReplacesAStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.sock")
	first, err := Listen(path, 1024)
	if err != nil {
		t.Fatal(err)
	}
	first.SetUnlinkOnClose(false)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := Listen(path, 1024)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}

func FuzzReadOK(f *testing.F) {
	f.Add([]byte("OK 1024\n"))
	f.Add([]byte("OK"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if err := readOK(bytes.NewReader(in)); err == nil && !bytes.HasPrefix(in, []byte("OK ")) {
			t.Fatalf("accepted %q", in)
		}
	})
}
