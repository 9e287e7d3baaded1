// Package dnsrelay answers DNS questions with the host's answers.
//
// The container's resolver address, 127.0.0.11, is one of the namespace on the
// host and cannot be reached from a VM. Questions asked at it in the guest are
// sent to the host over one stream, and its answers are passed back. The relay
// does not read names and keeps no answers; which question is answered is the
// host's decision.
//
// It promises a bound on the questions under way, a time for each, and a
// SERVFAIL where there is no answer, so that a program does not wait for one.
package dnsrelay

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/nanoclaw/nanoclaw/api/stream"
)

const (
	// maxQuestions bounds the questions under way.
	maxQuestions = 256
	// questionTime is how long the host may take.
	questionTime = 10 * time.Second
	// writeTime is how long sending a question may take.
	writeTime = 5 * time.Second
	// maxConns bounds the TCP connections of programs.
	maxConns = 64
)

// errNoAnswer is what a question without an answer ends with.
var errNoAnswer = errors.New("no answer from the host")

// Relay relays. Use New.
type Relay struct {
	questions chan struct{}
	conns     chan struct{}

	// writing is held while a question is sent.
	writing sync.Mutex

	mu      sync.Mutex
	host    net.Conn
	tag     uint32
	waiting map[uint32]chan []byte
}

// New returns a Relay without a host.
func New() *Relay {
	return &Relay{
		questions: make(chan struct{}, maxQuestions),
		conns:     make(chan struct{}, maxConns),
		waiting:   make(map[uint32]chan []byte),
	}
}

// Attach makes conn the stream to the host, in place of any other, and reads
// answers from it until it ends.
func (r *Relay) Attach(conn net.Conn) {
	r.mu.Lock()
	old := r.host
	r.host = conn
	r.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}
	for {
		m, err := stream.ReadDNS(conn)
		if err != nil {
			log.L.WithError(err).Debug("the host's DNS stream has ended")
			break
		}
		r.deliver(m)
	}
	r.detach(conn)
}

func (r *Relay) detach(conn net.Conn) {
	_ = conn.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.host == conn {
		r.host = nil
	}
}

func (r *Relay) deliver(m stream.DNSMessage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, ok := r.waiting[m.Tag]; ok {
		delete(r.waiting, m.Tag)
		c <- m.Message
	}
}

// ask sends a question to the host and returns its answer.
func (r *Relay) ask(ctx context.Context, t stream.Transport, question []byte) ([]byte, error) {
	answer := make(chan []byte, 1)
	r.mu.Lock()
	host := r.host
	r.tag++
	tag := r.tag
	r.waiting[tag] = answer
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.waiting, tag)
	}()
	if host == nil {
		return nil, errNoAnswer
	}
	if err := r.send(host, stream.DNSMessage{Tag: tag, Transport: t, Message: question}); err != nil {
		r.detach(host)
		return nil, err
	}
	select {
	case a := <-answer:
		if !answers(a, question) {
			return nil, errNoAnswer
		}
		return a, nil
	case <-ctx.Done():
		return nil, errNoAnswer
	}
}

func (r *Relay) send(host net.Conn, m stream.DNSMessage) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	if err := host.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return err
	}
	return stream.WriteDNS(host, m)
}

// answer returns what to tell the program that asked question: the host's
// answer, or a failure.
func (r *Relay) answer(t stream.Transport, question []byte) []byte {
	select {
	case r.questions <- struct{}{}:
		defer func() { <-r.questions }()
	default:
		return failure(question)
	}
	ctx, cancel := context.WithTimeout(context.Background(), questionTime)
	defer cancel()
	a, err := r.ask(ctx, t, question)
	if err != nil {
		return failure(question)
	}
	return a
}

// Serve answers what is asked on both sockets until they are closed.
func (r *Relay) Serve(udp net.PacketConn, tcp net.Listener) {
	go r.serveUDP(udp)
	go r.serveTCP(tcp)
}

func (r *Relay) serveUDP(conn net.PacketConn) {
	buf := make([]byte, stream.MaxDNSMessage)
	// Besides the questions under way there are those being refused.
	busy := make(chan struct{}, 2*maxQuestions)
	for {
		n, from, err := conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || !isQuestion(buf[:n]) {
			continue
		}
		question := append([]byte(nil), buf[:n]...)
		busy <- struct{}{}
		go func() {
			defer func() { <-busy }()
			// A program that is gone is no concern.
			_, _ = conn.WriteTo(r.answer(stream.UDP, question), from)
		}()
	}
}

func (r *Relay) serveTCP(l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		select {
		case r.conns <- struct{}{}:
			go func() {
				defer func() { <-r.conns }()
				r.converse(conn)
			}()
		default:
			_ = conn.Close()
		}
	}
}

// converse answers the questions of one TCP connection, one after the other.
func (r *Relay) converse(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	for {
		if err := conn.SetDeadline(time.Now().Add(questionTime)); err != nil {
			return
		}
		question, err := readTCP(conn)
		if err != nil {
			return
		}
		a := r.answer(stream.TCP, question)
		if err := conn.SetDeadline(time.Now().Add(writeTime)); err != nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...)); err != nil {
			return
		}
	}
}
