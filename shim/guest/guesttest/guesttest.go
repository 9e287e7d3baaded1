// Package guesttest gives tests a guest without a VM: an agent's service of the
// test's own, reached through the shim's real client over a real connection. It
// is not for anything but tests.
package guesttest

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/api/stream"
	"github.com/nanoclaw/nanoclaw/api/stream/streamtest"
)

// patience is how long a test waits for what must come.
const patience = 10 * time.Second

// Guest is the far end of an agent's connection.
type Guest struct {
	mu      sync.Mutex
	conn    net.Conn
	cut     bool
	streams map[stream.Header]net.Conn
	refuse  error
	arrived chan struct{}
}

// New returns a guest without a connection.
func New() *Guest {
	return &Guest{streams: map[stream.Header]net.Conn{}, arrived: make(chan struct{})}
}

// Serve answers the calls that come over one connection to the returned socket,
// until the end of the test or Cut.
func (g *Guest) Serve(t testing.TB, service agent.AgentService) (conn net.Conn) {
	t.Helper()
	// The test's own folder may have too long a path for a socket.
	dir, err := os.MkdirTemp("", "guest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	g.serve(t, service, listener{l, g})
	if conn, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	return conn
}

// Call calls the shim, as the agent does at boot, at a socket that listens
// already, and answers the calls that come back.
func (g *Guest) Call(t testing.TB, service agent.AgentService, socket string) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	conns := make(chan net.Conn, 1)
	conns <- conn
	g.serve(t, service, listener{&called{conn.LocalAddr(), conns, sync.Once{}}, g})
	return nil
}

func (g *Guest) serve(t testing.TB, service agent.AgentService, l net.Listener) {
	t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	agent.RegisterAgentService(server, service)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { _ = server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		g.Cut()
		_ = server.Close()
	})
}

// called is a listener with one connection, which is there already.
type called struct {
	addr  net.Addr
	conns chan net.Conn
	once  sync.Once
}

func (c *called) Accept() (net.Conn, error) {
	conn, ok := <-c.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (c *called) Close() error {
	c.once.Do(func() { close(c.conns) })
	return nil
}

func (c *called) Addr() net.Addr { return c.addr }

// listener notes the connection that it accepts.
type listener struct {
	net.Listener
	guest *Guest
}

func (l listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.guest.mu.Lock()
	defer l.guest.mu.Unlock()
	l.guest.conn = conn
	if l.guest.cut {
		_ = conn.Close()
	}
	return conn, nil
}

// Cut ends the connection at once, as the agent's death would.
func (g *Guest) Cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cut = true
	if g.conn != nil {
		_ = g.conn.Close()
	}
}

// Refuse makes every later stream fail with err.
func (g *Guest) Refuse(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refuse = err
}

// Dial connects a stream: the guest's end waits for Stream.
func (g *Guest) Dial(context.Context, uint32) (net.Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refuse != nil {
		return nil, g.refuse
	}
	host, here := streamtest.Pipe()
	go g.admit(here)
	return host, nil
}

func (g *Guest) admit(conn net.Conn) {
	h, err := stream.ReadHeader(conn)
	if err != nil {
		_ = conn.Close()
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.streams[h] = conn
	close(g.arrived)
	g.arrived = make(chan struct{})
}

// Stream takes the stream of that name, once it has come.
func (g *Guest) Stream(kind stream.Kind, id string) (net.Conn, error) {
	return g.take(func(h stream.Header) bool { return h == stream.Header{Kind: kind, ID: id} })
}

// Any takes a stream of that kind, once one has come.
func (g *Guest) Any(kind stream.Kind) (net.Conn, error) {
	return g.take(func(h stream.Header) bool { return h.Kind == kind })
}

func (g *Guest) take(wanted func(stream.Header) bool) (net.Conn, error) {
	timeout := time.After(patience)
	for {
		g.mu.Lock()
		arrived := g.arrived
		for h, conn := range g.streams {
			if wanted(h) {
				delete(g.streams, h)
				g.mu.Unlock()
				return conn, nil
			}
		}
		g.mu.Unlock()
		select {
		case <-arrived:
		case <-timeout:
			return nil, errors.New("no such stream has come")
		}
	}
}
