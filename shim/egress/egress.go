package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/log"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/api/stream"
	"github.com/nanoclaw/nanoclaw/shim/audit"
	"github.com/nanoclaw/nanoclaw/shim/intercept"
	"github.com/nanoclaw/nanoclaw/shim/network"
)

// refusedEvery is how often it is looked up where datagrams were refused.
const refusedEvery = time.Second

// hostResolvConfs are where a host names its name servers: the usual place, and
// the one behind it where a resolver of the host's own stands in between.
var hostResolvConfs = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}

// Options describe an Egress.
type Options struct {
	// Namespace is the container's, open until Close has returned.
	Namespace *network.Namespace
	// Rules are those in force. All are these and those that are only recorded,
	// in the mode audit; nil: there are no others.
	Rules, All *annotations.Network
	// Intercept answers connections that have to be looked into; nil: there are
	// none.
	Intercept *intercept.Interceptor
	// ResolvConf is the content of the container's resolv.conf, as it is now.
	ResolvConf func() []byte
	// Post takes the records. It must not block.
	Post func(audit.Entry)
	// Denied, unless it is nil, is told what the container was denied. It must not
	// block.
	Denied func(Denial)
}

// Denial is what a container did not reach, and why. A port of 0 is none.
type Denial struct {
	Host     string
	Port     uint16
	Protocol string
	annotations.Verdict
}

// Egress decides what one container reaches.
type Egress struct {
	closed   bool
	judge    *judge
	resolver *resolver
	proxy    *proxy
	report   *reporter
	watch    *watch
	// refused is where datagrams were refused, failing that this was not to be
	// found out.
	refused func() ([]network.Refused, error)
	failing atomic.Bool

	ctx       context.Context
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	questions *net.UDPConn
	listeners []*net.TCPListener
}

// New makes an Egress, which listens in the namespace from then on. It must be
// closed.
func New(ctx context.Context, o Options) (*Egress, error) {
	j := newJudge(o.Rules)
	j.answered, j.unjudged = o.Intercept.Knows, o.Intercept.Unjudged()
	e := &Egress{
		closed: o.Rules.Mode == annotations.NetworkNone,
		judge:  j,
		report: newReporter(o.Post),
	}
	e.report.told = o.Denied
	e.watch = newWatch(o.Rules, o.All, e.report)
	e.ctx, e.cancel = context.WithCancel(context.WithoutCancel(ctx))
	up := &upstream{
		ns: o.Namespace, judge: j, watch: e.watch, resolvConf: o.ResolvConf, hosts: hostResolvConfs, remembered: map[string]remembered{},
		ask: func(ctx context.Context, server netip.Addr, m stream.DNSMessage) ([]byte, error) {
			return network.AskServer(ctx, o.Namespace, server, m)
		},
	}
	n := newNames()
	e.resolver = &resolver{judge: j, names: n, upstream: up, report: e.report, watch: e.watch}
	e.proxy = &proxy{
		judge: j, names: n, upstream: up, report: e.report, watch: e.watch, intercept: o.Intercept,
		dial: dialer(o.Namespace), dials: make(chan struct{}, maxDials),
	}
	if e.closed {
		return e, nil
	}
	if err := o.Namespace.Do(e.listen); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for the container's connections: %w", err), e.Close())
	}
	e.wg.Go(func() { e.resolver.serveUDP(e.ctx, e.questions) })
	e.wg.Go(func() { accept(e.ctx, e.listeners[0], maxConns, e.proxy.serve, e.proxy.overloaded) })
	e.wg.Go(func() {
		accept(e.ctx, e.listeners[1], maxTCPQuestions,
			func(ctx context.Context, c *net.TCPConn) { e.resolver.converse(ctx, c) }, func(*net.TCPConn) {})
	})
	return e, nil
}

// listen opens the sockets. It runs in the namespace.
func (e *Egress) listen() error {
	var err error
	if e.questions, err = net.ListenUDP("udp4", nil); err != nil {
		return err
	}
	for range 2 {
		l, err := net.ListenTCP("tcp4", nil)
		if err != nil {
			return err
		}
		e.listeners = append(e.listeners, l)
	}
	return nil
}

// Gateway is what package network is to lead here.
func (e *Egress) Gateway() network.Gateway {
	if e.closed {
		return network.Gateway{Closed: true}
	}
	forward, denied := e.judge.forwarded()
	return network.Gateway{
		TCP: port(e.listeners[0].Addr()), DNSOverTCP: port(e.listeners[1].Addr()), DNSOverUDP: port(e.questions.LocalAddr()),
		Forward: forward, Denied: denied, Noted: e.watch.noted(forward), Changed: func(own, bridged []netip.Prefix) {
			e.judge.setOwn(own, bridged)
			e.watch.setOwn(own, bridged)
		},
	}
}

func port(a net.Addr) uint16 {
	switch a := a.(type) {
	case *net.TCPAddr:
		return uint16(a.Port)
	case *net.UDPAddr:
		return uint16(a.Port)
	}
	return 0
}

// Answer answers a question that came by another way than the network: the
// guest's relay.
func (e *Egress) Answer(ctx context.Context, m stream.DNSMessage) ([]byte, error) {
	if reply := e.resolver.answer(ctx, m.Message, m.Transport); reply != nil {
		return reply, nil
	}
	return nil, errNoQuestion
}

// Follow records where datagrams were refused, or noted, until Close.
func (e *Egress) Follow(refused func() ([]network.Refused, error)) {
	e.refused = refused
	e.wg.Go(func() {
		tick := time.NewTicker(refusedEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				e.Look()
			case <-e.ctx.Done():
				return
			}
		}
	})
}

// Look records where datagrams were refused, or noted, since the last time, for
// whoever cannot wait for the next. It is called after Follow.
func (e *Egress) Look() {
	all, err := e.refused()
	if failing := err != nil; e.failing.Swap(failing) != failing && failing {
		log.G(e.ctx).WithError(err).Warn("refused datagrams are not on record")
	}
	for _, d := range all {
		if d.Passed {
			e.watch.datagram(d)
			continue
		}
		e.report.datagram(d, e.judge.datagram(d.Destination))
	}
}

// Close ends every connection, and returns when nothing uses the namespace any
// more.
func (e *Egress) Close() error {
	e.cancel()
	var errs []error
	if e.questions != nil {
		errs = append(errs, e.questions.Close())
	}
	for _, l := range e.listeners {
		errs = append(errs, l.Close())
	}
	e.wg.Wait()
	return errors.Join(errs...)
}
