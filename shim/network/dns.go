package network

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/nanoclaw/nanoclaw/api/stream"
)

const (
	// maxQuestions is how many questions are under way at most. While there are
	// as many, no further one is read.
	maxQuestions = 128
	// questionTimeout bounds the wait for an answer. Docker's resolver gives
	// its own upstream 4 seconds.
	questionTimeout = 8 * time.Second
	// answerTimeout bounds the time the guest may take to accept an answer.
	answerTimeout = 8 * time.Second
	resolverPort  = 53
)

// Size, offsets and bits of a DNS header (RFC 1035 §4.1.1).
const (
	dnsHeaderSize = 12
	dnsFlags      = 2
	dnsRCode      = 3
	bitResponse   = 0x80
	bitTruncated  = 0x02
	bitsRCode     = 0x0f
	serverFailed  = 2
)

// RelayDNS serves a stream of the kind KindDNS: it asks Docker's resolver, in
// the namespace where that answers, what the guest asks, until the guest
// closes the stream or ctx ends. A question that the resolver cannot be asked
// or does not answer is answered with "server failure". RelayDNS closes conn.
//
// The guest is not trusted: it decides what is asked but not whom, and what it
// can hold up is bounded. An error is a broken stream, never a broken question.
func RelayDNS(ctx context.Context, ns *Namespace, conn net.Conn) error {
	return RelayDNSTo(ctx, conn, func(ctx context.Context, m stream.DNSMessage) ([]byte, error) {
		return AskServer(ctx, ns, resolver, m)
	})
}

// Asker returns the answer to a question. An error is told as "server failure".
type Asker func(ctx context.Context, m stream.DNSMessage) ([]byte, error)

// RelayDNSTo is RelayDNS with another one to ask.
func RelayDNSTo(ctx context.Context, conn net.Conn, ask Asker) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	// Closing conn is what ends a read or a write that is under way.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	var (
		wg    sync.WaitGroup
		write sync.Mutex
		slots = make(chan struct{}, maxQuestions)
	)
	defer func() {
		cancel()
		wg.Wait()
		if stop() {
			_ = conn.Close()
		}
	}()

	answer := func(m stream.DNSMessage) {
		write.Lock()
		defer write.Unlock()
		err := conn.SetWriteDeadline(time.Now().Add(answerTimeout))
		if err == nil {
			err = stream.WriteDNS(conn, m)
		}
		if err != nil {
			// A part of a frame may be out: nothing can follow it.
			cancel()
		}
	}
	r := bufio.NewReader(conn)
	for {
		m, err := stream.ReadDNS(r)
		switch {
		case errors.Is(err, io.EOF):
			// The last questions still get their answers.
			wg.Wait()
			return nil
		case ctx.Err() != nil, errors.Is(err, io.ErrUnexpectedEOF):
			// Nobody is left to hear an answer: the VM may have been killed.
			return nil
		case err != nil:
			return fmt.Errorf("DNS stream: %w", err)
		}
		if !isQuestion(m.Message) {
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		wg.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, questionTimeout)
			defer cancel()
			reply, err := ask(ctx, m)
			if err != nil {
				reply = failure(m.Message)
			}
			answer(stream.DNSMessage{Tag: m.Tag, Transport: m.Transport, Message: reply})
		})
	}
}

// isQuestion reports whether m is long enough for a DNS message and no answer.
func isQuestion(m []byte) bool {
	return len(m) >= dnsHeaderSize && m[dnsFlags]&bitResponse == 0
}

// failure is the answer "server failure" to a question, which it repeats, as
// an answer does.
func failure(question []byte) []byte {
	m := append([]byte(nil), question...)
	m[dnsFlags] |= bitResponse
	m[dnsRCode] = m[dnsRCode]&^bitsRCode | serverFailed
	return m
}

// AskServer sends one question to a name server as seen from ns.
func AskServer(ctx context.Context, ns *Namespace, server netip.Addr, m stream.DNSMessage) ([]byte, error) {
	return ask(ctx, ns, netip.AddrPortFrom(server, resolverPort), m)
}

func ask(ctx context.Context, ns *Namespace, server netip.AddrPort, m stream.DNSMessage) ([]byte, error) {
	network := "udp"
	if m.Transport == stream.TCP {
		network = "tcp"
	}
	var conn net.Conn
	// A socket belongs to the namespace it was made in, from whatever thread
	// it is used.
	err := ns.Do(func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, server.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if m.Transport == stream.TCP {
		return askTCP(conn, m.Message)
	}
	return askUDP(conn, m.Message)
}

func askUDP(conn net.Conn, question []byte) ([]byte, error) {
	if _, err := conn.Write(question); err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		if answers(buf[:n], question) {
			return fit(buf[:n]), nil
		}
	}
}

func askTCP(conn net.Conn, question []byte) ([]byte, error) {
	framed := binary.BigEndian.AppendUint16(nil, uint16(len(question)))
	if _, err := conn.Write(append(framed, question...)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	reply := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, reply); err != nil {
		return nil, err
	}
	if !answers(reply, question) {
		return nil, errors.New("the resolver's answer is to another question")
	}
	return fit(reply), nil
}

// answers reports whether reply is an answer to question.
func answers(reply, question []byte) bool {
	return len(reply) >= dnsHeaderSize && reply[dnsFlags]&bitResponse != 0 &&
		reply[0] == question[0] && reply[1] == question[1]
}

// fit cuts an answer that the stream cannot carry to its header, marked as
// truncated.
func fit(reply []byte) []byte {
	if len(reply) <= stream.MaxDNSMessage {
		return reply
	}
	head := append([]byte(nil), reply[:dnsHeaderSize]...)
	head[dnsFlags] |= bitTruncated
	clear(head[4:])
	return head
}
