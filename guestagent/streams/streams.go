// Package streams accepts the connections that the host opens for processes'
// stdio and keeps each until the call that names it arrives.
//
// It promises that only the host's connections are accepted, and that their
// number and the time they are kept are bounded. It does not read beyond a
// connection's header.
package streams

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/mdlayher/vsock"
	"github.com/nanoclaw/nanoclaw/api/stream"
)

const (
	// maxParked bounds the connections that no call has named yet, those whose
	// header has not arrived included.
	maxParked = 1024
	// headerTime is how long a connection may take to name itself.
	headerTime = 10 * time.Second
	// parkTime is how long a connection waits for its call.
	parkTime = 60 * time.Second
	// takeTime is how long a call waits for its connection.
	takeTime = 10 * time.Second
)

// ErrNoStream is wrapped by the error for a stream that the host did not open.
var ErrNoStream = fmt.Errorf("the host has not opened the stream: %w", errdefs.ErrUnavailable)

// Switchboard keeps connections by the name in their header.
type Switchboard struct {
	// dns takes over the connections of that kind, which no call names.
	dns func(net.Conn)

	mu      sync.Mutex
	slots   int
	parked  map[stream.Header]*parked
	waiting map[stream.Header]chan net.Conn
}

type parked struct {
	conn   net.Conn
	expiry *time.Timer
}

// New returns a Switchboard that gives DNS streams to dns.
func New(dns func(net.Conn)) *Switchboard {
	return &Switchboard{
		dns:     dns,
		parked:  make(map[stream.Header]*parked),
		waiting: make(map[stream.Header]chan net.Conn),
	}
}

// Serve accepts connections until l is closed.
func (s *Switchboard) Serve(ctx context.Context, l net.Listener) error {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
			return err
		}
		if err != nil {
			// Out of descriptors or memory: others may free some.
			log.G(ctx).WithError(err).Warn("accept a stream")
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if !FromHost(conn) {
			log.G(ctx).Warnf("refused a stream from %s: not the host", conn.RemoteAddr())
			_ = conn.Close()
			continue
		}
		if !s.acquire() {
			log.G(ctx).Warnf("refused a stream: %d are open and unused", maxParked)
			_ = conn.Close()
			continue
		}
		go s.admit(ctx, conn)
	}
}

// FromHost reports whether conn's other end is the host and nothing in the VM.
func FromHost(conn net.Conn) bool {
	addr, ok := conn.RemoteAddr().(*vsock.Addr)
	return ok && addr.ContextID == vsock.Host
}

func (s *Switchboard) acquire() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slots >= maxParked {
		return false
	}
	s.slots++
	return true
}

func (s *Switchboard) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots--
}

// admit reads the header of a connection, for which a slot was acquired, and
// passes it on or parks it.
func (s *Switchboard) admit(ctx context.Context, conn net.Conn) {
	header, err := readHeader(conn)
	if err != nil {
		log.G(ctx).WithError(err).Warn("refused a stream")
		_ = conn.Close()
		s.release()
		return
	}
	if header.Kind == stream.DNS {
		s.release()
		s.dns(conn)
		return
	}
	if err := s.park(header, conn); err != nil {
		log.G(ctx).WithError(err).Warn("refused a stream")
		_ = conn.Close()
		s.release()
	}
}

func readHeader(conn net.Conn) (stream.Header, error) {
	if err := conn.SetReadDeadline(time.Now().Add(headerTime)); err != nil {
		return stream.Header{}, err
	}
	header, err := stream.ReadHeader(conn)
	if err != nil {
		return stream.Header{}, err
	}
	return header, conn.SetReadDeadline(time.Time{})
}

func (s *Switchboard) park(header stream.Header, conn net.Conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w, ok := s.waiting[header]; ok {
		delete(s.waiting, header)
		s.slots--
		w <- conn
		return nil
	}
	if _, ok := s.parked[header]; ok {
		return fmt.Errorf("stream %s %s is open already", header.Kind, header.ID)
	}
	p := &parked{conn: conn}
	p.expiry = time.AfterFunc(parkTime, func() { s.expire(header, p) })
	s.parked[header] = p
	return nil
}

func (s *Switchboard) expire(header stream.Header, p *parked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.parked[header] == p {
		delete(s.parked, header)
		s.slots--
		_ = p.conn.Close()
	}
}

// Take returns the connection of that kind and id. It waits for it, but no
// longer than ctx and a bound of its own allow.
func (s *Switchboard) Take(ctx context.Context, kind stream.Kind, id string) (net.Conn, error) {
	header := stream.Header{Kind: kind, ID: id}
	s.mu.Lock()
	if p, ok := s.parked[header]; ok {
		delete(s.parked, header)
		s.slots--
		p.expiry.Stop()
		s.mu.Unlock()
		return p.conn, nil
	}
	if _, ok := s.waiting[header]; ok {
		s.mu.Unlock()
		return nil, fmt.Errorf("stream %s is named by two calls: %w", id, errdefs.ErrAlreadyExists)
	}
	// Room for one, so that the sender never waits with the lock held.
	arrived := make(chan net.Conn, 1)
	s.waiting[header] = arrived
	s.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, takeTime)
	defer cancel()
	select {
	case conn := <-arrived:
		return conn, nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[header] == arrived {
		delete(s.waiting, header)
		return nil, ErrNoStream
	}
	// It arrived in the same moment.
	return <-arrived, nil
}
