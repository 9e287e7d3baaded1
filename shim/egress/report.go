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
)

// reporter makes records of denials. Whoever takes them bounds their number.
type reporter struct {
	post func(audit.Entry)

	mu    sync.Mutex
	asked map[string]time.Time
}

// connection records a denied connection: to a name, or else to an address.
func (r *reporter) connection(host string, port uint16, v annotations.Verdict) {
	r.denied(audit.Object{Host: host, Port: port, Protocol: "tcp"}, v)
}

// name records that a name was not answered.
func (r *reporter) name(name string, v annotations.Verdict) {
	now := time.Now()
	r.mu.Lock()
	for other, at := range r.asked {
		if now.Sub(at) > sameName || len(r.asked) >= maxAsked {
			delete(r.asked, other)
		}
	}
	_, known := r.asked[name]
	r.asked[name] = now
	r.mu.Unlock()
	if !known {
		r.denied(audit.Object{Host: name, Protocol: "dns"}, v)
	}
}

// datagram records that datagrams, or other packets, were refused.
func (r *reporter) datagram(d network.Refused, v annotations.Verdict) {
	o := audit.Object{Host: d.Destination.Addr().String(), Port: d.Destination.Port(), Protocol: "ip"}
	switch d.Protocol {
	case unix.IPPROTO_UDP:
		o.Protocol = "udp"
	case unix.IPPROTO_ICMP:
		o.Protocol = "icmp"
	}
	r.denied(o, v)
}

func (r *reporter) denied(o audit.Object, v annotations.Verdict) {
	o.Layer, o.Detail = string(v.Layer), v.Why
	r.post(audit.Entry{Event: audit.Network, Decision: audit.Deny, Rule: v.Rule, Object: &o})
}

// address is how an address is told.
func address(a netip.Addr) string { return a.Unmap().String() }
