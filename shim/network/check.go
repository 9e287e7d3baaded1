package network

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// feature is one thing the kernel must have, and a transaction that needs it.
type feature struct {
	name   string
	option string
	try    func(c *nftables.Conn, t *nftables.Table, b binding) error
}

var features = []feature{
	{"nftables for network devices", "CONFIG_NF_TABLES_NETDEV", func(c *nftables.Conn, t *nftables.Table, b binding) error {
		addChain(c, t, "in", nftables.ChainHookIngress, b.link.name, b.link.index, nftables.ChainPolicyAccept)
		return nil
	}},
	{"nftables egress hook", "CONFIG_NETFILTER_EGRESS, Linux 5.16", func(c *nftables.Conn, t *nftables.Table, b binding) error {
		addChain(c, t, "out", nftables.ChainHookEgress, b.link.name, b.link.index, nftables.ChainPolicyAccept)
		return nil
	}},
	{"nftables dup for network devices", "CONFIG_NFT_DUP_NETDEV", func(c *nftables.Conn, t *nftables.Table, b binding) error {
		chain := addChain(c, t, "in", nftables.ChainHookIngress, b.link.name, b.link.index, nftables.ChainPolicyAccept)
		addRule(c, chain, duplicate(b.tap.index), verdict(expr.VerdictDrop))
		return nil
	}},
	{"nftables sets of connections", "CONFIG_NF_TABLES", func(c *nftables.Conn, t *nftables.Table, _ binding) error {
		_, err := addSets(c, t)
		return err
	}},
}

// Check reports which features of the running kernel the network needs and
// does not find, each by name. It needs root.
func Check() error {
	ns, err := NewNamespace()
	if err != nil {
		return fmt.Errorf("network namespaces: %w", err)
	}
	return errors.Join(check(ns), ns.Close())
}

// check tries the features in ns, which it leaves with taps only.
func check(ns *Namespace) error {
	var b binding
	for i := range 2 {
		t, err := newTap(ns, i)
		if err != nil {
			return fmt.Errorf("kernel feature missing: tap devices (CONFIG_TUN, /dev/net/tun): %w", err)
		}
		defer func() { _ = t.release() }()
		b.tap = t
		if i == 0 {
			b.link = link{index: t.index, name: t.name}
		}
	}
	var missing []error
	for _, f := range features {
		err := transact(ns, func(c *nftables.Conn) error {
			t := newTable()
			c.AddTable(t)
			c.DelTable(t)
			c.AddTable(t)
			return f.try(c, t, b)
		})
		if err != nil {
			missing = append(missing, fmt.Errorf("kernel feature missing: %s (%s): %w", f.name, f.option, err))
		}
	}
	if missing != nil {
		return errors.Join(missing...)
	}
	// Everything there, yet together it may still fail.
	return loadRules(ns, []binding{b})
}
