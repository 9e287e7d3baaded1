package egress

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/shim/audit"
	"github.com/nanoclaw/nanoclaw/shim/network"
)

const (
	// sameName is how long a further question for a name that was denied is the
	// same attempt: a program asks for each kind of address, and again.
	sameName = 5 * time.Second
	// maxAsked bounds the names of which that is known.
	maxAsked = 256
	// maxPassed bounds of how many endpoints it is known that they are on record
	// as allowed.
	maxPassed = 4096
)

// reporter makes records of denials, and, in the mode audit, of what passes.
// Whoever takes them bounds their number.
type reporter struct {
	post func(audit.Entry)
	// told, unless it is nil, is told of denials as well.
	told func(Denial)

	mu sync.Mutex
	// asked is when each name was denied last, noted when it was last said of
	// an endpoint that it would be.
	asked, noted map[audit.Object]time.Time
	passed       map[audit.Object]bool
}

func newReporter(post func(audit.Entry)) *reporter {
	return &reporter{post: post, asked: map[audit.Object]time.Time{}, noted: map[audit.Object]time.Time{}, passed: map[audit.Object]bool{}}
}

// endpointOf is an endpoint as records have it.
func endpointOf(protocol, host string, port uint16) audit.Object {
	return audit.Object{Host: host, Port: port, Protocol: protocol}
}

// connection records a denied connection: to a name, or else to an address.
func (r *reporter) connection(host string, port uint16, v annotations.Verdict) {
	r.denied(endpointOf("tcp", host, port), v)
}

// name records that a name was not answered.
func (r *reporter) name(name string, v annotations.Verdict) {
	if o := endpointOf("dns", name, 0); !r.lately(r.asked, o) {
		r.denied(o, v)
	}
}

// lately reports whether it was asked of an endpoint a moment ago as well.
func (r *reporter) lately(all map[audit.Object]time.Time, o audit.Object) bool {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for other, at := range all {
		if now.Sub(at) > sameName || len(all) >= maxAsked {
			delete(all, other)
		}
	}
	_, known := all[o]
	all[o] = now
	return known
}

// would records what only the mode audit let pass.
func (r *reporter) would(o audit.Object, v annotations.Verdict) {
	if r.lately(r.noted, o) {
		return
	}
	o.Layer, o.Detail = string(v.Layer), v.Why
	r.post(audit.Entry{Event: audit.Network, Decision: audit.Allow, Would: audit.Deny, Rule: v.Rule, Object: &o})
}

// allowed records, once, what all rules allow.
func (r *reporter) allowed(o audit.Object) {
	r.mu.Lock()
	known := r.passed[o]
	if len(r.passed) >= maxPassed {
		clear(r.passed)
	}
	r.passed[o] = true
	r.mu.Unlock()
	if !known {
		r.post(audit.Entry{Event: audit.Network, Decision: audit.Allow, Object: &o})
	}
}

// datagram records that datagrams, or other packets, were refused.
func (r *reporter) datagram(d network.Refused, v annotations.Verdict) {
	r.denied(datagramObject(d), v)
}

func datagramObject(d network.Refused) audit.Object {
	o := endpointOf("ip", address(d.Destination.Addr()), d.Destination.Port())
	switch d.Protocol {
	case unix.IPPROTO_UDP:
		o.Protocol = "udp"
	case unix.IPPROTO_ICMP:
		o.Protocol = "icmp"
	}
	return o
}

func (r *reporter) denied(o audit.Object, v annotations.Verdict) {
	o.Layer, o.Detail = string(v.Layer), v.Why
	r.post(audit.Entry{Event: audit.Network, Decision: audit.Deny, Rule: v.Rule, Object: &o})
	if r.told != nil {
		r.told(Denial{Host: o.Host, Port: o.Port, Protocol: o.Protocol, Verdict: v})
	}
}

// address is how an address is told.
func address(a netip.Addr) string { return a.Unmap().String() }
