package egress

import (
	"net/netip"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/annotations/pattern"
	"github.com/nanoclaw/nanoclaw/shim/network"
)

// forwarded says whether datagrams and echo requests pass, and to where they do
// not. They have no names, so they pass only where everything is open but what
// is denied, and then by address alone.
func (j *judge) forwarded() (bool, []network.Destination) {
	if j.listed() {
		return false, nil
	}
	denied := []network.Destination{{Prefix: Pool}}
	add := func(e pattern.Endpoint) {
		for _, p := range e.Prefixes() {
			if p.Addr().Is4() {
				denied = append(denied, network.Destination{Prefix: p, Port: e.Port})
			}
		}
	}
	for _, r := range j.rules.Deny {
		add(r.Endpoint)
	}
	for _, r := range j.rules.Ask {
		add(r.Endpoint)
	}
	for _, r := range j.unjudged {
		add(r.Endpoint)
	}
	return true, denied
}

// datagram says why a datagram was refused.
func (j *judge) datagram(to netip.AddrPort) annotations.Verdict {
	if v := j.literal(to.Addr(), to.Port()); v.Decision != annotations.DecisionAllow {
		return v
	}
	for _, r := range j.unjudged {
		if r.Endpoint.Match(to.Addr().String(), to.Port()) {
			return annotations.Verdict{
				Decision: annotations.DecisionDeny, Rule: "readonly_tools " + r.Endpoint.String(), Origin: r.Origin,
				Why: "nobody can say whether a datagram only reads",
			}
		}
	}
	return baseline("where only what is listed is reached, datagrams are not")
}
