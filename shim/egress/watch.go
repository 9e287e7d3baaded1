package egress

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/annotations/pattern"
	"github.com/nanoclaw/nanoclaw/shim/network"
)

// watch records, for a container in the mode audit, what the rules in force let
// pass and all rules together would not. It refuses nothing, and what it records
// does not change what is decided. A nil watch sees nothing.
//
// Names that are open by the rules in force are answered with their true
// addresses, or datagrams to them would not pass. So a connection to such an
// address is told and judged by the name that was last answered with it.
type watch struct {
	judge  *judge
	report *reporter

	mu       sync.Mutex
	answered map[netip.Addr]string
}

// newWatch returns nil where all rules are in force.
func newWatch(rules, all *annotations.Network, report *reporter) *watch {
	if all == nil || all == rules {
		return nil
	}
	return &watch{judge: newJudge(all), report: report, answered: map[netip.Addr]string{}}
}

func (w *watch) setOwn(own, bridged []netip.Prefix) {
	if w != nil {
		w.judge.setOwn(own, bridged)
	}
}

// question is told of a name that is answered.
func (w *watch) question(name string) {
	if w == nil {
		return
	}
	if kind, v := w.judge.name(name); kind == hidden {
		w.report.would(endpointOf("dns", name, 0), v)
	}
}

// answer is told of the true addresses that a name was answered with.
func (w *watch) answer(name string, addrs []netip.Addr) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range addrs {
		if _, known := w.answered[a]; !known && len(w.answered) >= maxNames {
			// Any of them: its connections are told by their addresses.
			for other := range w.answered {
				delete(w.answered, other)
				break
			}
		}
		w.answered[a] = name
	}
}

func (w *watch) nameOf(a netip.Addr) (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	name, ok := w.answered[a]
	return name, ok
}

// connection is told of a connection that is made: for which name or address,
// and to which addresses.
func (w *watch) connection(host string, candidates []netip.Addr, port uint16) {
	if w == nil {
		return
	}
	named := pattern.IsName(host)
	if !named {
		if name, ok := w.nameOf(candidates[0]); ok {
			host, named = name, true
		}
	}
	v := w.judge.named(host, port)
	if !named {
		v = w.judge.literal(candidates[0], port)
	} else if v.Decision == annotations.DecisionAllow {
		_, v = leads(w.judge, host, candidates, port)
	}
	if v.Decision == annotations.DecisionAllow {
		w.report.allowed(endpointOf("tcp", host, port))
	} else {
		w.report.would(endpointOf("tcp", host, port), v)
	}
}

// server is told of a name server that is asked in the container's place.
func (w *watch) server(a netip.Addr, ofHost []netip.Addr) {
	if w != nil && !w.judge.server(a, ofHost) {
		w.report.would(endpointOf("dns", address(a), resolverPort), w.judge.literal(a, resolverPort))
	}
}

// noted is to where datagrams and echo requests are remembered while they pass.
func (w *watch) noted(forward bool) []network.Destination {
	if w == nil || !forward {
		return nil
	}
	if passes, denied := w.judge.forwarded(); passes {
		return slices.DeleteFunc(denied, func(d network.Destination) bool { return d.Prefix == Pool })
	}
	return []network.Destination{{Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}}
}

// datagram is told of datagrams, or of echo requests, that passed.
func (w *watch) datagram(d network.Refused) {
	if w == nil {
		return
	}
	o := datagramObject(d)
	if name, ok := w.nameOf(d.Destination.Addr()); ok {
		o.Host = name
	}
	w.report.would(o, w.judge.datagram(d.Destination))
}
