package sandbox

import (
	"context"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/internal/cleanup"
	"github.com/nanoclaw/nanoclaw/shim/audit"
	"github.com/nanoclaw/nanoclaw/shim/egress"
	"github.com/nanoclaw/nanoclaw/shim/network"
)

// openNetwork makes the VM's network: one whose frames pass unchanged, or, where
// there are rules about it, one in which the host decides about each connection.
func (s *Sandbox) openNetwork(ctx context.Context, o Options, undo *cleanup.Stack) error {
	s.policy, s.intercepts = o.Policy, o.Intercept != nil
	rules := &o.Policy.Held().Network
	if !o.Policy.Network.Restricts() && !s.intercepts {
		s.net = network.New(s.ns, s.relaysDNS)
		undo.Add("close network", s.net.Close)
		return nil
	}
	var err error
	s.teller = newTeller()
	s.egress, err = egress.New(ctx, egress.Options{
		Namespace: s.ns, Rules: rules, All: &o.Policy.Network, Intercept: o.Intercept, ResolvConf: s.resolvConf,
		Post: s.record, Denied: s.teller.denied,
	})
	if err != nil {
		return err
	}
	undo.Add("close egress", s.egress.Close)
	s.net = network.NewGateway(s.ns, s.relaysDNS, s.egress.Gateway())
	undo.Add("close network", s.net.Close)
	s.egress.Follow(s.net.Refused)
	return nil
}

// Admits returns an error where a container of that policy cannot be in this VM:
// those that share a network share what it reaches, so a rule about it that the
// VM's does not have, or only records, would not be kept. Nor could secrets be
// used for one of them alone, or the one be kept from writing what the other may.
func (s *Sandbox) Admits(id string, p *annotations.Policy) error {
	refusal := &annotations.Refusal{
		Rule: "network", Origin: annotations.Origin{Layer: annotations.LayerBaseline}, What: "--network container:" + s.info.ID,
		Instead: "give both the same rules, or the second a network of its own",
	}
	switch {
	case s.intercepts || p.Intercepts():
		who := "the container " + id
		if s.intercepts {
			who = "the container whose network it asks for"
		}
		refusal.Why = who + " has secrets or read-only tools with endpoints, for which the host answers connections of one container alone"
		refusal.Instead = "give it a network of its own"
	case !p.Network.KeptBy(&s.policy.Network), !p.Held().Network.KeptBy(&s.policy.Held().Network):
		refusal.Why = "the container " + id + " has rules about the network that the container whose network it asks for has not"
	default:
		return nil
	}
	return refusal
}

// recorder takes the records of one container.
type recorder struct {
	id   string
	post func(audit.Entry)
}

// record records what happens in the network that the containers share, under
// the one that is in it longest. The first container may end before the others.
func (s *Sandbox) record(e audit.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.audits) > 0 {
		s.audits[0].post(e)
	}
}
