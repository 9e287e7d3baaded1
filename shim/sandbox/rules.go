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
	s.policy = o.Policy
	rules := &o.Policy.Held().Network
	if !o.Policy.Network.Restricts() {
		s.net = network.New(s.ns, s.relaysDNS)
		undo.Add("close network", s.net.Close)
		return nil
	}
	var err error
	s.teller = newTeller()
	s.egress, err = egress.New(ctx, egress.Options{
		Namespace: s.ns, Rules: rules, All: &o.Policy.Network, ResolvConf: s.resolvConf, Post: s.record, Denied: s.teller.denied,
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

// Admits returns an error where a container with the rules of p about the network
// cannot be in this VM: those that share a network share what it reaches, so a
// rule that the VM's does not have, or only records, would not be kept.
func (s *Sandbox) Admits(id string, p *annotations.Policy) error {
	if p.Network.KeptBy(&s.policy.Network) && p.Held().Network.KeptBy(&s.policy.Held().Network) {
		return nil
	}
	return &annotations.Refusal{
		Rule: "network", Origin: annotations.Origin{Layer: annotations.LayerBaseline},
		What: "--network container:" + s.info.ID, Why: "the container " + id + " has rules about the network that the container whose network it asks for has not",
		Instead: "give both the same rules, or the second a network of its own",
	}
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
