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
	server *ttrpc.Server

	mu      sync.Mutex
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
	if g.server, err = ttrpc.NewServer(); err != nil {
		t.Fatal(err)
	}
	agent.RegisterAgentService(g.server, service)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { _ = g.server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		g.Cut()
	})
	if conn, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	return conn
}

// Cut ends the connection, as the agent's death would.
func (g *Guest) Cut() { _ = g.server.Close() }

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
	timeout := time.After(patience)
	for {
		g.mu.Lock()
		conn, arrived := g.streams[stream.Header{Kind: kind, ID: id}], g.arrived
		delete(g.streams, stream.Header{Kind: kind, ID: id})
		g.mu.Unlock()
		if conn != nil {
			return conn, nil
		}
		select {
		case <-arrived:
		case <-timeout:
			return nil, errors.New("no such stream has come")
		}
	}
}
