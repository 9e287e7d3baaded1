package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/shim/intercept"
	"github.com/nanoclaw/nanoclaw/shim/network"
)

const (
	// maxConns bounds the connections of one container.
	maxConns = 4096
	// dialTime bounds the time until a connection is made.
	dialTime = 15 * time.Second
	// maxDials bounds how many are being made: each takes a thread.
	maxDials = 128
	// acceptPause is how long is waited where no connection can be taken, for
	// want of descriptors.
	acceptPause = 50 * time.Millisecond
)

// decider judges connections: a *judge.
type decider interface {
	named(host string, port uint16) annotations.Verdict
	literal(a netip.Addr, port uint16) annotations.Verdict
	resolved(host string, port uint16, a netip.Addr) annotations.Verdict
}

// proxy takes the guest's connections, and makes those that are allowed anew.
type proxy struct {
	judge    decider
	names    *names
	upstream *upstream
	report   *reporter
	watch    *watch
	// intercept answers what has to be looked into; nil: nothing has.
	intercept *intercept.Interceptor
	// dial connects to an address, from the container's namespace.
	dial  func(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error)
	dials chan struct{}
}

// accept hands each connection to serve, at most limit at a time, until the
// listener is closed. What serve leaves open is closed when ctx ends. It returns
// when all is over.
func accept(ctx context.Context, l *net.TCPListener, limit int, serve func(context.Context, *net.TCPConn), full func(*net.TCPConn)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, limit)
	for {
		c, err := l.AcceptTCP()
		switch {
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			if err == nil {
				_ = c.Close()
			}
			return
		case err != nil:
			time.Sleep(acceptPause)
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			full(c)
			refuse(c)
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			defer stop()
			defer func() { _ = c.Close() }()
			serve(ctx, c)
		})
	}
}

// refuse ends a connection so that the other side sees an error and not an end.
func refuse(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// serve is one connection.
func (p *proxy) serve(ctx context.Context, c *net.TCPConn) {
	to, err := originalDestination(c)
	if err != nil {
		refuse(c)
		return
	}
	host, candidates, v := p.decide(ctx, to)
	if v.Decision != annotations.DecisionAllow {
		p.report.connection(host, to.Port(), v)
		refuse(c)
		return
	}
	p.watch.connection(host, candidates, to.Port())
	var first []byte
	if conversation := p.intercept.For(host, to.Port(), candidates); conversation != nil {
		// The addresses stay those that were judged, as long as the guest's connection is.
		dial := func(ctx context.Context) (net.Conn, error) { return p.connect(ctx, candidates, to.Port()) }
		var pass bool
		if first, pass = conversation.Serve(ctx, c, dial); !pass {
			return
		}
	}
	out, err := p.connect(ctx, candidates, to.Port())
	if err != nil {
		refuse(c)
		return
	}
	if _, err := out.Write(first); err != nil {
		refuse(c)
		_ = out.Close()
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = out.Close() })
	defer stop()
	join(c, out)
}

// overloaded records that a connection was refused for want of room.
func (p *proxy) overloaded(c *net.TCPConn) {
	if to, err := originalDestination(c); err == nil {
		p.report.connection(address(to.Addr()), to.Port(), baseline(fmt.Sprintf("the container has more than %d connections", maxConns)))
	}
}

// decide says where a connection leads, and by what name or address it is known
// in a record.
func (p *proxy) decide(ctx context.Context, to netip.AddrPort) (host string, candidates []netip.Addr, v annotations.Verdict) {
	if !Pool.Contains(to.Addr()) {
		host = address(to.Addr())
		return host, []netip.Addr{to.Addr()}, p.judge.literal(to.Addr(), to.Port())
	}
	host, ok := p.names.name(to.Addr())
	if !ok {
		return address(to.Addr()), nil, baseline("the address stands for no name that was asked for")
	}
	if v := p.judge.named(host, to.Port()); v.Decision != annotations.DecisionAllow {
		return host, nil, v
	}
	ctx, cancel := context.WithTimeout(ctx, questionTime)
	defer cancel()
	found, err := p.upstream.resolve(ctx, host)
	if err != nil {
		return host, nil, baseline("its address is not found: " + err.Error())
	}
	candidates, v = leads(p.judge, host, found.addrs, to.Port())
	return host, candidates, v
}

// leads returns those of a name's addresses that it may lead to, and why it leads
// to none.
func leads(j decider, host string, addrs []netip.Addr, port uint16) (candidates []netip.Addr, v annotations.Verdict) {
	v = baseline("it has no address")
	for _, a := range addrs {
		one := j.resolved(host, port, a)
		if one.Decision == annotations.DecisionAllow {
			candidates = append(candidates, a)
			continue
		}
		if len(candidates) == 0 {
			one.Why = fmt.Sprintf("it resolves to %s: %s", a, orRule(one))
			v = one
		}
	}
	if len(candidates) > 0 {
		v = annotations.Verdict{Decision: annotations.DecisionAllow}
	}
	return candidates, v
}

func orRule(v annotations.Verdict) string {
	if v.Why == "" {
		return "the rule is about that address"
	}
	return v.Why
}

// connect connects to the first of the addresses that answers.
func (p *proxy) connect(ctx context.Context, candidates []netip.Addr, port uint16) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	select {
	case p.dials <- struct{}{}:
		defer func() { <-p.dials }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var last error
	for i, a := range candidates {
		// The others are to have their share of the time.
		share := dialTime / time.Duration(len(candidates)-i)
		one, cancel := context.WithTimeout(ctx, share)
		c, err := p.dial(one, netip.AddrPortFrom(a, port))
		cancel()
		if err == nil {
			return c, nil
		}
		last = err
	}
	return nil, last
}

// join passes what each side sends to the other until both have ended. The bare
// connections are handed to io.Copy, which has the kernel do it.
func join(a, b *net.TCPConn) {
	defer func() { _ = b.Close() }()
	var wg sync.WaitGroup
	pass := func(to, from *net.TCPConn) {
		if _, err := io.Copy(to, from); err != nil {
			// Broken on one side is broken on the other.
			refuse(to)
			refuse(from)
			return
		}
		_ = to.CloseWrite()
	}
	wg.Go(func() { pass(a, b) })
	wg.Go(func() { pass(b, a) })
	wg.Wait()
}

// dialer connects from a namespace, with a mark by which the rules keep the
// connection from the namespace itself.
func dialer(ns *network.Namespace) func(context.Context, netip.AddrPort) (*net.TCPConn, error) {
	return func(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
		d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
			var marked error
			if err := raw.Control(func(fd uintptr) {
				marked = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, network.DialMark)
			}); err != nil {
				return err
			}
			return marked
		}}
		var c net.Conn
		err := ns.Do(func() (err error) {
			c, err = d.DialContext(ctx, "tcp4", to.String())
			return err
		})
		if err != nil {
			return nil, err
		}
		return c.(*net.TCPConn), nil
	}
}

// originalDestination is where a connection was for before it was led here.
func originalDestination(c *net.TCPConn) (netip.AddrPort, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var to netip.AddrPort
	var asked error
	if err := raw.Control(func(fd uintptr) {
		// The kernel fills in a sockaddr_in, which is as long as the group of an
		// ipv6_mreq: family, port, address.
		var m *unix.IPv6Mreq
		if m, asked = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, unix.SO_ORIGINAL_DST); asked == nil {
			b := m.Multiaddr
			to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3]))
		}
	}); err != nil {
		return netip.AddrPort{}, err
	}
	if asked != nil {
		return netip.AddrPort{}, fmt.Errorf("find out where a connection was for: %w", asked)
	}
	return to, nil
}
