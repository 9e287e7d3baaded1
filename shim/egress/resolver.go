package egress

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/nanoclaw/nanoclaw/api/stream"
)

const (
	resolverPort = 53
	// standInTTL is how long a program may use an address that stands for a name
	// before it asks again, in seconds.
	standInTTL = 60
	// maxQuestions bounds the questions under way; while there are as many, no
	// further one is read.
	maxQuestions = 128
	// questionTime bounds the time for an answer.
	questionTime = 8 * time.Second
	// maxTCPQuestions bounds the connections for questions, idleTime how long one
	// may be without any.
	maxTCPQuestions = 32
	idleTime        = 10 * time.Second
)

// resolver answers questions for names.
type resolver struct {
	judge    *judge
	names    *names
	upstream *upstream
	report   *reporter
	watch    *watch
}

// answer answers one question. Nil is no answer, to what is no question.
func (r *resolver) answer(ctx context.Context, m []byte, transport stream.Transport) []byte {
	q, err := parseQuestion(m)
	if err != nil {
		return nil
	}
	reply, err := r.decide(ctx, q, transport)
	if err != nil {
		if reply, err = q.reply(dnsmessage.RCodeServerFailure, nil); err != nil {
			return nil
		}
	}
	if transport == stream.UDP && len(reply) > q.size || len(reply) > stream.MaxDNSMessage {
		if reply, err = truncated(q); err != nil {
			return nil
		}
	}
	return reply
}

// truncated is the answer that there is more than fits.
func truncated(q question) ([]byte, error) {
	reply, err := q.reply(dnsmessage.RCodeSuccess, nil)
	if err == nil {
		// The bit TC (RFC 1035, section 4.1.1).
		reply[2] |= 0x02
	}
	return reply, err
}

func (r *resolver) decide(ctx context.Context, q question, transport stream.Transport) ([]byte, error) {
	if q.refused != dnsmessage.RCodeSuccess {
		return q.reply(q.refused, nil)
	}
	if a, ok := poolName(q.name); ok && q.q.Type == dnsmessage.TypePTR {
		if name, ok := r.names.name(a); ok {
			return q.withName(name, standInTTL)
		}
		return q.reply(dnsmessage.RCodeNameError, nil)
	}
	kind, v := r.judge.name(q.name)
	if kind == hidden {
		r.report.name(q.name, v)
		return q.reply(dnsmessage.RCodeNameError, nil)
	}
	r.watch.question(q.name)
	if kind == plain && q.q.Type == dnsmessage.TypeA && r.leadsToPeer(ctx, q.name) {
		kind = standIn
	}
	switch {
	case kind == plain && q.q.Type != dnsmessage.TypeAAAA:
		return r.pass(ctx, q, transport)
	case q.q.Type != dnsmessage.TypeA && q.q.Type != dnsmessage.TypeAAAA:
		// There is such a name, and nothing of this type.
		return q.reply(dnsmessage.RCodeSuccess, nil)
	}
	found, err := r.upstream.resolve(ctx, q.name)
	if err != nil {
		return nil, err
	}
	switch {
	case q.q.Type == dnsmessage.TypeAAAA || len(found.addrs) == 0:
		return q.reply(found.code, nil)
	case !slices.ContainsFunc(found.addrs, func(a netip.Addr) bool { return !r.judge.isOwn(a) }):
		// The container's own name, which leads nowhere outside.
		return q.withAddress(found.addrs[0], uint32(found.ttl/time.Second))
	}
	return q.withAddress(r.names.address(q.name), standInTTL)
}

// leadsToPeer reports whether a name is a container's that is reached by its name
// alone. Where it cannot be found out, passing the question on fails as well.
func (r *resolver) leadsToPeer(ctx context.Context, name string) bool {
	if strings.Contains(name, ".") || !r.judge.hasPeers() {
		return false
	}
	found, err := r.upstream.resolve(ctx, name)
	return err == nil && r.judge.byNameAlone(name, found.addrs)
}

// pass passes a question on, and the answer back.
func (r *resolver) pass(ctx context.Context, q question, transport stream.Transport) ([]byte, error) {
	reply, id, err := r.upstream.exchange(ctx, q.q, q.edns, transport)
	if err != nil {
		return nil, err
	}
	if len(reply) < 12 || binary.BigEndian.Uint16(reply) != id || reply[2]&0x80 == 0 {
		return nil, errors.New("the resolver's answer is none")
	}
	if found, err := parseAddresses(reply, id, q.q); err == nil {
		r.watch.answer(q.name, found.addrs)
	}
	reply = slices.Clone(reply)
	binary.BigEndian.PutUint16(reply, q.id)
	return reply, nil
}

// serveUDP answers what comes by a socket until that is closed.
func (r *resolver) serveUDP(ctx context.Context, conn net.PacketConn) {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, maxQuestions)
	buf := make([]byte, stream.MaxDNSMessage)
	for {
		n, from, err := conn.ReadFrom(buf)
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		m := slices.Clone(buf[:n])
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, questionTime)
			defer cancel()
			if reply := r.answer(ctx, m, stream.UDP); reply != nil {
				// Who is gone needs no answer.
				_, _ = conn.WriteTo(reply, from)
			}
		})
	}
}

// converse answers the questions of one connection, one after the other.
func (r *resolver) converse(ctx context.Context, conn net.Conn) {
	for {
		if err := conn.SetDeadline(time.Now().Add(idleTime)); err != nil {
			return
		}
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint16(size[:])
		if n > stream.MaxDNSMessage {
			return
		}
		m := make([]byte, n)
		if _, err := io.ReadFull(conn, m); err != nil {
			return
		}
		ask, cancel := context.WithTimeout(ctx, questionTime)
		reply := r.answer(ask, m, stream.TCP)
		cancel()
		if reply == nil {
			return
		}
		if err := conn.SetDeadline(time.Now().Add(idleTime)); err != nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return
		}
	}
}
