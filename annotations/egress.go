package annotations

import (
	"slices"

	"github.com/nanoclaw/nanoclaw/annotations/pattern"
)

// NetworkMode says what the container can reach.
type NetworkMode string

// The modes, from the widest to the narrowest.
const (
	// NetworkOpen is what Docker gives, without what is denied.
	NetworkOpen NetworkMode = "open"
	// NetworkFiltered reaches only what is listed.
	NetworkFiltered NetworkMode = "filtered"
	// NetworkNone reaches nothing.
	NetworkNone NetworkMode = "none"
)

var networkModes = []NetworkMode{NetworkOpen, NetworkFiltered, NetworkNone}

// Network are the rules about what the container can reach, and the namespace
// that its network is in. The strictest of the rules that match decides.
type Network struct {
	// Namespace is the path of an existing network namespace to join; empty: a
	// new one of its own.
	Namespace string      `json:"namespace,omitempty"`
	Mode      NetworkMode `json:"mode"`
	// From is where the mode came from; nil is the baseline.
	From *Origin `json:"from,omitempty"`
	// Allow are closed lists: an endpoint must be in each.
	Allow []EndpointList `json:"allow,omitempty"`
	Deny  []EndpointRule `json:"deny,omitempty"`
	// Ask are endpoints that a person has to agree to.
	Ask []EndpointRule `json:"ask,omitempty"`
	// Readonly are endpoints that may be read from and not written to.
	Readonly []EndpointRule `json:"readonly,omitempty"`
}

// EndpointList is a closed list of endpoints.
type EndpointList struct {
	Endpoints []EndpointRule `json:"endpoints"`
	Origin
}

// EndpointRule is an endpoint, and why there is a rule about it.
type EndpointRule struct {
	Endpoint pattern.Endpoint `json:"endpoint"`
	// Tool is the tool that the endpoint belongs to, if it does.
	Tool string `json:"tool,omitempty"`
	Origin
}

func (r EndpointRule) key() string { return r.Endpoint.String() + " " + r.Tool }

func (l EndpointList) key() string { return keysOf(l.Endpoints) }

// Restricts reports whether there is any rule about what can be reached.
func (n *Network) Restricts() bool {
	return n.Mode != NetworkOpen || len(n.Allow)+len(n.Deny)+len(n.Ask)+len(n.Readonly) > 0
}

// KeptBy reports whether whoever is held to o is held to n as well: n says
// nothing that o does not say.
func (n *Network) KeptBy(o *Network) bool {
	both := o.meet(*n)
	return both.Mode == o.Mode && len(both.Allow) == len(o.Allow) && len(both.Deny) == len(o.Deny) &&
		len(both.Ask) == len(o.Ask) && len(both.Readonly) == len(o.Readonly)
}

// Decide judges a connection to a host, a name or an address, at a port. A name
// is judged as such: who resolves it has to judge the address as well.
func (n *Network) Decide(host string, port uint16) Verdict {
	v := Verdict{Decision: DecisionAllow, Rule: "network " + string(n.Mode), Origin: baseline}
	if n.From != nil {
		v.Origin = *n.From
	}
	if n.Mode == NetworkNone {
		v.Decision = DecisionDeny
		return v
	}
	for _, r := range n.Deny {
		if r.Endpoint.Match(host, port) {
			v := Verdict{Decision: DecisionDeny, Rule: "network.deny " + r.Endpoint.String(), Origin: r.Origin}
			return v.closedTool(r.Tool)
		}
	}
	if n.Mode == NetworkFiltered && len(n.Allow) == 0 {
		v.Decision, v.Why = DecisionDeny, "nothing is listed"
		return v
	}
	for _, l := range n.Allow {
		if !slices.ContainsFunc(l.Endpoints, func(r EndpointRule) bool { return r.Endpoint.Match(host, port) }) {
			return Verdict{Decision: DecisionDeny, Rule: "network.allow", Origin: l.Origin, Why: host + " is not in the list"}
		}
	}
	for _, r := range n.Ask {
		if r.Endpoint.Match(host, port) {
			v.Decision, v.Rule, v.Origin = DecisionAsk, "network.ask "+r.Endpoint.String(), r.Origin
			break
		}
	}
	return v
}

// DecideAll judges all that a pattern stands for: [DecisionPartly] where it is
// not the same for all.
func (n *Network) DecideAll(e pattern.Endpoint) Verdict {
	if !e.IsWild() && e.Port != 0 {
		return n.Decide(e.Host, e.Port)
	}
	v := Verdict{Decision: DecisionAllow, Rule: "network " + string(n.Mode), Origin: baseline}
	if n.From != nil {
		v.Origin = *n.From
	}
	if n.Mode == NetworkNone || n.Mode == NetworkFiltered && len(n.Allow) == 0 {
		v.Decision = DecisionDeny
		return v
	}
	narrow := func(r EndpointRule, d Decision, rule string) {
		switch {
		case r.Endpoint.Covers(e):
			v = Verdict{Decision: d, Rule: rule + " " + r.Endpoint.String(), Origin: r.Origin}
		case e.Covers(r.Endpoint):
			v = Verdict{Decision: DecisionPartly, Rule: rule + " " + r.Endpoint.String(), Origin: r.Origin}
		}
	}
	for _, r := range n.Ask {
		narrow(r, DecisionAsk, "network.ask")
	}
	for _, l := range n.Allow {
		if slices.ContainsFunc(l.Endpoints, func(r EndpointRule) bool { return r.Endpoint.Covers(e) }) {
			continue
		}
		v = Verdict{Decision: DecisionPartly, Rule: "network.allow", Origin: l.Origin}
		if !slices.ContainsFunc(l.Endpoints, func(r EndpointRule) bool { return e.Covers(r.Endpoint) }) {
			v.Decision = DecisionDeny
			return v
		}
	}
	for _, r := range n.Deny {
		if r.Endpoint.Covers(e) {
			narrow(r, DecisionDeny, "network.deny")
			return v
		}
	}
	for _, r := range n.Deny {
		narrow(r, DecisionDeny, "network.deny")
	}
	return v
}
