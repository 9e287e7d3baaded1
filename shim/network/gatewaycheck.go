package network

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// gatewayFeatures are what rules about the network need of the kernel, besides
// what every network needs.
var gatewayFeatures = []struct {
	name, option string
	kind         nftables.ChainType
	hook         *nftables.ChainHook
	rule         []expr.Any
}{
	{"nftables for IPv4 and IPv6 (inet)", "CONFIG_NF_TABLES_INET", nftables.ChainTypeFilter, nftables.ChainHookInput, verdict(expr.VerdictAccept)},
	{"nftables and the state of connections", "CONFIG_NFT_CT, CONFIG_NF_CONNTRACK", nftables.ChainTypeFilter, nftables.ChainHookForward, inState(expr.CtStateBitESTABLISHED)},
	{"nftables reject", "CONFIG_NFT_REJECT_INET", nftables.ChainTypeFilter, nftables.ChainHookInput, append(transportIs(unix.IPPROTO_TCP), reset()...)},
	{"nftables address translation", "CONFIG_NFT_NAT, CONFIG_NF_NAT", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, append(isIPv4(),
		&expr.Immediate{Register: reg, Data: tapAddress.AsSlice()},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg})},
	{"nftables redirect", "CONFIG_NFT_REDIR", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, append(transportIs(unix.IPPROTO_TCP),
		&expr.Immediate{Register: reg, Data: []byte{0, 1}}, &expr.Redir{RegisterProtoMin: reg})},
	{"nftables masquerade", "CONFIG_NFT_MASQ", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, []expr.Any{&expr.Masq{}}},
}

// CheckGateway reports which features of the running kernel rules about the
// network need and do not find, each by name. It needs root.
func CheckGateway() error {
	ns, err := NewNamespace()
	if err != nil {
		return fmt.Errorf("network namespaces: %w", err)
	}
	return errors.Join(checkGateway(ns), ns.Close())
}

func checkGateway(ns *Namespace) error {
	if err := check(ns); err != nil {
		return err
	}
	var missing []error
	for _, f := range gatewayFeatures {
		err := transact(ns, func(c *nftables.Conn) error {
			t := gatewayTable()
			c.AddTable(t)
			c.DelTable(t)
			c.AddTable(t)
			chain := c.AddChain(&nftables.Chain{Name: "try", Table: t, Type: f.kind, Hooknum: f.hook, Priority: nftables.ChainPriorityFilter})
			addRule(c, chain, f.rule)
			return nil
		})
		if err != nil {
			missing = append(missing, fmt.Errorf("kernel feature missing, which rules about the network need: %s (%s): %w", f.name, f.option, err))
		}
	}
	if missing != nil {
		return errors.Join(missing...)
	}
	t, err := newTap(ns, 2)
	if err != nil {
		return err
	}
	a := netip.MustParseAddr("192.0.2.1")
	p := port{link: link{index: t.index, mac: t.mac}, tap: t, tapMAC: t.hostMAC, addrs: []translation{{a, tapAddress}}}
	g := &Gateway{TCP: 1, DNSOverTCP: 2, DNSOverUDP: 3, Forward: true, Denied: []Destination{{Prefix: LinkNetwork}}, Noted: []Destination{{Prefix: LinkNetwork}}}
	return errors.Join(loadGatewayRules(ns, g, crossing{ports: []port{p}}), t.release())
}
