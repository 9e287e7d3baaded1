package egress

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/annotations/pattern"
	"github.com/nanoclaw/nanoclaw/shim/network"
)

// Pool is where the addresses come from that stand for names: a range for
// measurements between networks (RFC 2544), which is nobody's.
var Pool = netip.MustParsePrefix("198.18.0.0/15")

// itself are addresses that mean a machine itself, many, or nobody.
var itself = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("224.0.0.0/3"),
	netip.MustParsePrefix("::/127"), netip.MustParsePrefix("ff00::/8"), network.LinkNetwork, Pool,
}

// answer is how a question for a name is dealt with.
type answer int

const (
	// hidden: the name can be reached at no port.
	hidden answer = iota
	// standIn: it is answered with an address that stands for it.
	standIn
	// plain: it can be reached at every port, and the true answer is given.
	plain
)

// judge knows the rules, and the container's own addresses.
type judge struct {
	rules *annotations.Network
	// ports are those that rules name, and one that none names.
	ports []uint16
	// answered reports whether connections to a name may be answered on the host;
	// unjudged are endpoints that datagrams do not reach.
	answered func(name string) bool
	unjudged []annotations.EndpointRule

	mu           sync.RWMutex
	own, bridged []netip.Prefix
	// host are the host's addresses, as they are now.
	host func() []netip.Addr
}

func newJudge(rules *annotations.Network) *judge {
	j := &judge{rules: rules, host: hostAddresses, answered: func(string) bool { return false }}
	add := func(all []annotations.EndpointRule) {
		for _, r := range all {
			if p := r.Endpoint.Port; p != 0 && !slices.Contains(j.ports, p) {
				j.ports = append(j.ports, p)
			}
		}
	}
	for _, l := range rules.Allow {
		add(l.Endpoints)
	}
	add(rules.Deny)
	add(rules.Ask)
	other := uint16(1)
	for slices.Contains(j.ports, other) {
		other++
	}
	// First, so that a refusal of all ports is told by a rule about all.
	j.ports = append([]uint16{other}, j.ports...)
	return j
}

// setOwn says which addresses the container has, each with its network, and
// which of these networks are the engine's own.
func (j *judge) setOwn(own, bridged []netip.Prefix) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.own, j.bridged = slices.Clone(own), slices.Clone(bridged)
}

// hostAddresses are those of the namespace that this process is in.
func hostAddresses() (all []netip.Addr) {
	found, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range found {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			all = append(all, p.Addr().Unmap())
		}
	}
	return all
}

// peer reports whether an address that a name resolves to is another container on
// a network that the container shares with it. The name has to be one of the
// engine's: nobody outside owns a name without a dot. An address of the host's is
// none; where these are not known, nothing is.
func (j *judge) peer(name string, a netip.Addr) bool {
	if strings.Contains(name, ".") || !pattern.IsName(name) {
		return false
	}
	j.mu.RLock()
	near := slices.ContainsFunc(j.bridged, func(p netip.Prefix) bool { return p.Contains(a) })
	host := j.host
	j.mu.RUnlock()
	if !near {
		return false
	}
	ofHost := host()
	return len(ofHost) > 0 && !slices.Contains(ofHost, a)
}

// shutsOut reports whether a denial is about an address that a name resolves to.
// The word "private" is not about the other containers on a network that the
// container was put into to reach them. Whoever means these names their addresses.
func (j *judge) shutsOut(r annotations.EndpointRule, host string, port uint16, a netip.Addr) bool {
	return r.Endpoint.Match(a.String(), port) && (r.Endpoint.Host != pattern.Private || !j.peer(host, a))
}

// hasPeers reports whether there is a rule that says "private".
func (j *judge) hasPeers() bool {
	says := func(r annotations.EndpointRule) bool { return r.Endpoint.Host == pattern.Private }
	return slices.ContainsFunc(j.rules.Deny, says) || slices.ContainsFunc(j.rules.Ask, says)
}

// byNameAlone reports whether a name is open and leads to an address that is not,
// other than by this name: such a name is answered with an address that stands
// for it.
func (j *judge) byNameAlone(host string, addrs []netip.Addr) bool {
	return slices.ContainsFunc(addrs, func(a netip.Addr) bool {
		return slices.ContainsFunc(j.ports, func(port uint16) bool {
			return j.literal(a, port).Decision != annotations.DecisionAllow && j.resolved(host, port, a).Decision == annotations.DecisionAllow
		})
	})
}

// listed reports whether only what is listed can be reached.
func (j *judge) listed() bool {
	return j.rules.Mode != annotations.NetworkOpen || len(j.rules.Allow) > 0
}

// name judges a question for a name. Its verdict says why, where it is hidden.
func (j *judge) name(host string) (answer, annotations.Verdict) {
	if !pattern.IsName(host) {
		return hidden, baseline("it is not a name that a host can have")
	}
	var first annotations.Verdict
	open, shut := false, false
	for i, port := range j.ports {
		v := j.rules.Decide(host, port)
		if i == 0 {
			first = v
		}
		if v.Decision == annotations.DecisionAllow {
			open = true
		} else {
			shut = true
		}
	}
	switch {
	case !open:
		return hidden, refusal(first)
	case shut || j.listed() || j.answered(host):
		return standIn, annotations.Verdict{}
	}
	return plain, annotations.Verdict{}
}

// named judges a connection to a name, before it is known where that leads.
func (j *judge) named(host string, port uint16) annotations.Verdict {
	return refusal(j.rules.Decide(host, port))
}

// literal judges a connection to an address that stands for no name.
func (j *judge) literal(a netip.Addr, port uint16) annotations.Verdict {
	a = a.Unmap()
	if why := j.excluded(a); why != "" {
		return baseline(why)
	}
	return refusal(j.rules.Decide(a.String(), port))
}

// resolved judges one of the addresses that an allowed name resolves to. What a
// name resolves to is the choice of whoever owns it, so it does not lead to where
// an address would not be allowed to: not to what is denied, not to the machine
// itself, and, where only listed places can be reached, to the public Internet
// alone. Two things are granted beyond that: addresses that are listed too, and,
// to a name that is listed as such and not by a pattern, the networks that the
// container is on, where the engine finds other containers by name.
func (j *judge) resolved(host string, port uint16, a netip.Addr) annotations.Verdict {
	a = a.Unmap()
	if why := j.excluded(a); why != "" {
		return baseline(why)
	}
	for _, r := range j.rules.Deny {
		if j.shutsOut(r, host, port, a) {
			return annotations.Verdict{Decision: annotations.DecisionDeny, Rule: "network.deny " + r.Endpoint.String(), Origin: r.Origin}
		}
	}
	for _, r := range j.rules.Ask {
		if j.shutsOut(r, host, port, a) {
			return refusal(annotations.Verdict{Decision: annotations.DecisionAsk, Rule: "network.ask " + r.Endpoint.String(), Origin: r.Origin})
		}
	}
	allow := annotations.Verdict{Decision: annotations.DecisionAllow}
	if !j.listed() || pattern.IsPublic(a) {
		return allow
	}
	near := j.onOwnNetwork(a)
	for _, l := range j.rules.Allow {
		if !slices.ContainsFunc(l.Endpoints, func(r annotations.EndpointRule) bool {
			return r.Endpoint.Match(a.String(), port) || near && !r.Endpoint.IsWild() && r.Endpoint.Match(host, port)
		}) {
			return annotations.Verdict{
				Decision: annotations.DecisionDeny, Rule: "network.allow", Origin: l.Origin,
				Why: "the name leads to an address that is not on the public Internet, and the address is not listed",
			}
		}
	}
	return allow
}

// server judges a name server that the container's resolv.conf names, with
// ofHost being the host's own.
func (j *judge) server(a netip.Addr, ofHost []netip.Addr) bool {
	if network.IsEngineResolver(a) {
		return true
	}
	return j.excluded(a) == "" && (slices.Contains(ofHost, a) || j.literal(a, resolverPort).Decision == annotations.DecisionAllow)
}

// excluded says why an address is reached in no case; empty: it may be.
func (j *judge) excluded(a netip.Addr) string {
	if !a.Is4() {
		return "containers that have rules about the network have no IPv6"
	}
	for _, p := range itself {
		if p.Contains(a) {
			return "it is an address of the machine itself, or of nobody"
		}
	}
	if j.isOwn(a) {
		return "it is the container's own address"
	}
	return ""
}

func (j *judge) isOwn(a netip.Addr) bool {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return slices.ContainsFunc(j.own, func(p netip.Prefix) bool { return p.Addr() == a })
}

func (j *judge) onOwnNetwork(a netip.Addr) bool {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return slices.ContainsFunc(j.own, func(p netip.Prefix) bool { return p.Contains(a) })
}

// refusal makes of "ask" the denial that it is, as long as nobody can be asked.
func refusal(v annotations.Verdict) annotations.Verdict {
	if v.Decision == annotations.DecisionAsk {
		v.Decision, v.Why = annotations.DecisionDeny, "a person has to agree, and there is nobody to ask"
	}
	return v
}

// baseline is a refusal that no rule can take back.
func baseline(why string) annotations.Verdict {
	return annotations.Verdict{
		Decision: annotations.DecisionDeny, Rule: "network", Origin: annotations.Origin{Layer: annotations.LayerBaseline}, Why: why,
	}
}
