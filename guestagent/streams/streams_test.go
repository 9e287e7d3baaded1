package streams

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/mdlayher/vsock"
	"github.com/nanoclaw/nanoclaw/api/stream"
)

// listener plays the vsock listener.
type listener chan net.Conn

func (l listener) Accept() (net.Conn, error) {
	c, ok := <-l
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (l listener) Close() error   { return nil }
func (l listener) Addr() net.Addr { return &vsock.Addr{} }

type from struct {
	net.Conn
	cid uint32
}

func (f from) RemoteAddr() net.Addr { return &vsock.Addr{ContextID: f.cid} }

type exchange struct {
	*Switchboard
	listener listener
	dns      chan net.Conn
}

func begin(t *testing.T) exchange {
	e := exchange{listener: make(listener), dns: make(chan net.Conn, 1)}
	e.Switchboard = New(func(c net.Conn) { e.dns <- c })
	done := make(chan error, 1)
	go func() { done <- e.Serve(t.Context(), e.listener) }()
	t.Cleanup(func() {
		close(e.listener)
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve = %v", err)
		}
	})
	return e
}

// dial connects as the VM of that number.
func (e exchange) dial(cid uint32) net.Conn {
	guest, host := net.Pipe()
	e.listener <- from{guest, cid}
	return host
}

func (e exchange) open(t *testing.T, kind stream.Kind, id string) net.Conn {
	t.Helper()
	host := e.dial(vsock.Host)
	_ = host.SetDeadline(time.Now().Add(10 * time.Second))
	if err := stream.WriteHeader(host, stream.Header{Kind: kind, ID: id}); err != nil {
		t.Fatal(err)
	}
	return host
}

func closed(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the connection is not closed: %v", err)
	}
}

// joined checks that both ends are of one connection.
func joined(t *testing.T, host, guest net.Conn) {
	t.Helper()
	go func() { _, _ = host.Write([]byte("x")) }()
	var b [1]byte
	if _, err := io.ReadFull(guest, b[:]); err != nil || b[0] != 'x' {
		t.Errorf("read %q, %v", b, err)
	}
}

func TestConnectionBeforeItsCall(t *testing.T) {
	e := begin(t)
	host := e.open(t, stream.Stdout, "aa")
	other := e.open(t, stream.Stderr, "aa")
	guest, err := e.Take(t.Context(), stream.Stdout, "aa")
	if err != nil {
		t.Fatal(err)
	}
	joined(t, host, guest)
	guest, err = e.Take(t.Context(), stream.Stderr, "aa")
	if err != nil {
		t.Fatal(err)
	}
	joined(t, other, guest)
	if e.slots != 0 {
		t.Errorf("%d slots are taken", e.slots)
	}
}

func TestCallBeforeItsConnection(t *testing.T) {
	e := begin(t)
	taken := make(chan net.Conn)
	go func() {
		c, err := e.Take(t.Context(), stream.Stdin, "bb")
		if err != nil {
			t.Error(err)
		}
		taken <- c
	}()
	time.Sleep(20 * time.Millisecond)
	if _, err := e.Take(t.Context(), stream.Stdin, "bb"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a second call for one stream: %v", err)
	}
	host := e.open(t, stream.Stdin, "bb")
	joined(t, host, <-taken)
}

func TestTakeDoesNotWaitForEver(t *testing.T) {
	e := begin(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := e.Take(ctx, stream.Stdin, "cc"); !errors.Is(err, ErrNoStream) {
		t.Errorf("Take = %v", err)
	}
	if len(e.waiting) != 0 {
		t.Error("the call is still waiting")
	}
}

func TestOnlyTheHostConnects(t *testing.T) {
	e := begin(t)
	for _, cid := range []uint32{vsock.Local, 3, vsock.Hypervisor} {
		closed(t, e.dial(cid))
	}
}

func TestRefused(t *testing.T) {
	e := begin(t)
	e.open(t, stream.Stdin, "dd")
	time.Sleep(20 * time.Millisecond)
	closed(t, e.open(t, stream.Stdin, "dd"))
	junk := e.dial(vsock.Host)
	go func() { _, _ = junk.Write([]byte("GET / HTTP/1.1\r\n\r\n")) }()
	closed(t, junk)
}

func TestDNSIsPassedOn(t *testing.T) {
	e := begin(t)
	host := e.open(t, stream.DNS, "0123456789abcdef")
	joined(t, host, <-e.dns)
}

func TestParkedConnectionsAreBounded(t *testing.T) {
	e := begin(t)
	for i := range maxParked {
		e.open(t, stream.Stdout, fmt.Sprintf("%x", i))
	}
	closed(t, e.dial(vsock.Host))
	e.mu.Lock()
	header := stream.Header{Kind: stream.Stdout, ID: "0"}
	p := e.parked[header]
	e.mu.Unlock()
	e.expire(header, p)
	e.expire(header, p)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.slots != maxParked-1 {
		t.Errorf("%d slots after one expired", e.slots)
	}
}
