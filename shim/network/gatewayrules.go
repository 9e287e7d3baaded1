package network

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const (
	// loopbackIndex is that of every namespace's lo.
	loopbackIndex = 1
	// translated is the bit of a connection's status that says that its
	// destination was changed (IPS_DST_NAT).
	translated = 1 << 5
	// replyDirection is the direction of what answers a connection's first packet.
	replyDirection = 1
	// portUnreachable and prohibited are codes of ICMP's "destination unreachable".
	portUnreachable = 3
	prohibited      = 13
	// fragment are the bits of the IPv4 header that are set in fragments.
	fragment = 0x3fff
	// plainHeader is the first byte of an IPv4 header without options.
	plainHeader = 0x45
)

// never are destinations that mean the namespace itself, or nobody. Nothing that
// the guest sends there is looked at further.
var never = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("224.0.0.0/3"), LinkNetwork,
}

func gatewayTable() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
}

// loadGatewayRules replaces our two tables, in one transaction.
func loadGatewayRules(ns *Namespace, g *Gateway, c crossing) error {
	return transact(ns, func(conn *nftables.Conn) error {
		frames, packets := newTable(), gatewayTable()
		for _, t := range []*nftables.Table{frames, packets} {
			conn.AddTable(t)
			conn.DelTable(t)
			conn.AddTable(t)
		}
		for _, t := range c.idle {
			addShut(conn, frames, t)
		}
		all := c.translations()
		for _, p := range c.ports {
			if g.Closed {
				addShut(conn, frames, p.tap)
				continue
			}
			addFrameGuard(conn, frames, p, all)
			addToGuest(conn, frames, p, all)
		}
		addInput(conn, packets, g, c)
		if g.Closed {
			return nil
		}
		addTaking(conn, packets, g, c)
		addPublished(conn, packets, c)
		addDialGuard(conn, packets)
		return addForward(conn, packets, g, c)
	})
}

func unloadGatewayRules(ns *Namespace) error {
	return transact(ns, func(c *nftables.Conn) error {
		for _, t := range []*nftables.Table{newTable(), gatewayTable()} {
			c.AddTable(t)
			c.DelTable(t)
		}
		return nil
	})
}

// shutTap has nothing pass by a tap that has just been made.
func shutTap(ns *Namespace, t *tap) error {
	return transact(ns, func(c *nftables.Conn) error {
		table := newTable()
		c.AddTable(table)
		addShut(c, table, t)
		return nil
	})
}

func addShut(c *nftables.Conn, table *nftables.Table, t *tap) {
	addChain(c, table, "guest", nftables.ChainHookIngress, t.name, t.index, nftables.ChainPolicyDrop)
	addChain(c, table, "to_guest", nftables.ChainHookEgress, t.name, t.index, nftables.ChainPolicyDrop)
}

// addFrameGuard lets in what the guest may send at all, before the namespace's
// network stack sees it: plain IPv4, from the address that the guest has on this
// link and from one of the container's, to somebody else. The source becomes the
// address that stands for it.
func addFrameGuard(c *nftables.Conn, table *nftables.Table, p port, all []translation) {
	chain := addChain(c, table, "guest", nftables.ChainHookIngress, p.tap.name, p.tap.index, nftables.ChainPolicyDrop)
	drop := func(match ...[]expr.Any) { addRule(c, chain, append(match, verdict(expr.VerdictDrop))...) }
	drop(loadPayload(expr.PayloadBaseLLHeader, reg, 6, 6), unequal(p.link.mac))
	drop(loadPayload(expr.PayloadBaseLLHeader, reg, 0, 6), unequal(p.tapMAC))
	// The header's own type, which a VLAN tag is in the way of: the kernel's
	// notion of the protocol looks through one.
	drop(loadPayload(expr.PayloadBaseLLHeader, reg, 12, 2), unequal(binaryutil.BigEndian.PutUint16(unix.ETH_P_IP)))
	drop(loadPayload(expr.PayloadBaseNetworkHeader, reg, 0, 1), unequal([]byte{plainHeader}))
	drop(loadPayload(expr.PayloadBaseNetworkHeader, reg, 6, 2), masked(binaryutil.BigEndian.PutUint16(fragment)), unequal([]byte{0, 0}))
	for _, prefix := range never {
		drop(toPrefix(prefix))
	}
	for _, t := range all {
		drop(toPrefix(netip.PrefixFrom(t.outside, 32)))
	}
	for _, t := range all {
		addRule(c, chain, addressIs(12, t.outside), setAddress(12, t.inside), verdict(expr.VerdictAccept))
	}
}

// addToGuest lets out to the guest what is for the container, under the
// container's address.
func addToGuest(c *nftables.Conn, table *nftables.Table, p port, all []translation) {
	chain := addChain(c, table, "to_guest", nftables.ChainHookEgress, p.tap.name, p.tap.index, nftables.ChainPolicyDrop)
	for _, t := range all {
		// An error names the packet that it is about, by the addresses that the
		// guest knows, or the guest's kernel would not know it for its own. That
		// packet's source lies behind two headers: 20 and 8 bytes, and 12 of its own.
		for _, kind := range []byte{3, 11, 12} {
			addRule(c, chain,
				isTransport(unix.ETH_P_IP, unix.IPPROTO_ICMP),
				loadPayload(expr.PayloadBaseTransportHeader, reg, 0, 1), []expr.Any{equal([]byte{kind})},
				loadPayload(expr.PayloadBaseTransportHeader, reg, 20, 4), []expr.Any{equal(t.inside.AsSlice())},
				[]expr.Any{
					&expr.Immediate{Register: reg, Data: t.outside.AsSlice()},
					&expr.Payload{
						OperationType: expr.PayloadWrite, SourceRegister: reg, Base: expr.PayloadBaseTransportHeader,
						Offset: 20, Len: 4, CsumType: expr.CsumTypeInet, CsumOffset: 2,
					},
				})
		}
		addRule(c, chain, isProtocol(unix.ETH_P_IP), addressIs(16, t.inside), setAddress(16, t.outside), verdict(expr.VerdictAccept))
	}
}

// addTaking leads the guest's connections and questions to the gateway's
// listeners.
func addTaking(c *nftables.Conn, table *nftables.Table, g *Gateway, cr crossing) {
	chain := c.AddChain(&nftables.Chain{
		Name: "take", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest - 1),
	})
	for _, p := range cr.ports {
		for _, to := range []struct {
			transport byte
			dns       bool
			port      uint16
		}{
			{unix.IPPROTO_UDP, true, g.DNSOverUDP},
			{unix.IPPROTO_TCP, true, g.DNSOverTCP},
			{unix.IPPROTO_TCP, false, g.TCP},
		} {
			match := [][]expr.Any{fromLink(p.tap.index), isIPv4(), transportIs(to.transport)}
			if to.dns {
				match = append(match, toPort(resolverPort))
			}
			addRule(c, chain, append(match, []expr.Any{
				&expr.Immediate{Register: reg, Data: binaryutil.BigEndian.PutUint16(to.port)},
				&expr.Redir{RegisterProtoMin: reg},
			})...)
		}
	}
}

// addPublished leads what others send to the container to the guest.
func addPublished(c *nftables.Conn, table *nftables.Table, cr crossing) {
	chain := c.AddChain(&nftables.Chain{
		Name: "published", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityNATDest,
	})
	for _, p := range cr.ports {
		for _, t := range p.addrs {
			addRule(c, chain, fromLink(p.link.index), isIPv4(), addressIs(16, t.outside), []expr.Any{
				&expr.Immediate{Register: reg, Data: t.inside.AsSlice()},
				&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg},
			})
		}
	}
}

// addInput says what the namespace's own stack takes: of the guest's, what was
// led to a listener; of the others', answers to what the namespace asked.
func addInput(c *nftables.Conn, table *nftables.Table, g *Gateway, cr crossing) {
	chain := addFilter(c, table, "input", nftables.ChainHookInput, nftables.ChainPolicyDrop)
	accept := func(match ...[]expr.Any) { addRule(c, chain, append(match, verdict(expr.VerdictAccept))...) }
	accept(fromLink(loopbackIndex))
	for _, p := range cr.ports {
		if !g.Closed {
			accept(fromLink(p.tap.index), wasTranslated(), transportIs(unix.IPPROTO_TCP), toPort(g.TCP))
			accept(fromLink(p.tap.index), wasTranslated(), transportIs(unix.IPPROTO_TCP), toPort(g.DNSOverTCP))
			accept(fromLink(p.tap.index), wasTranslated(), transportIs(unix.IPPROTO_UDP), toPort(g.DNSOverUDP))
		}
		accept(fromLink(p.link.index), inState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED))
		// Without them the namespace would have no neighbours in IPv6: its
		// routers' and neighbours' words, and their questions.
		for _, kind := range []byte{134, 135, 136} {
			accept(fromLink(p.link.index), transportIs(unix.IPPROTO_ICMPV6), loadPayload(expr.PayloadBaseTransportHeader, reg, 0, 1), []expr.Any{equal([]byte{kind})})
		}
		addRule(c, chain, fromLink(p.link.index), transportIs(unix.IPPROTO_TCP), reset())
	}
}

// addForward says what passes through the namespace without being taken.
func addForward(c *nftables.Conn, table *nftables.Table, g *Gateway, cr crossing) error {
	refuse, err := addRefuse(c, table)
	if err != nil {
		return err
	}
	note, err := addNote(c, table)
	if err != nil {
		return err
	}
	chain := addFilter(c, table, "forward", nftables.ChainHookForward, nftables.ChainPolicyDrop)
	for _, p := range cr.ports {
		addRule(c, chain, fromLink(p.tap.index), inDirection(replyDirection), inState(expr.CtStateBitESTABLISHED), verdict(expr.VerdictAccept))
		if g.Forward {
			for _, d := range g.Denied {
				addRule(c, chain, append(d.from(p), jump(refuse))...)
			}
			for _, d := range g.Noted {
				addRule(c, chain, append(d.from(p), inState(expr.CtStateBitNEW), jump(note))...)
			}
			addRule(c, chain, fromLink(p.tap.index), transportIs(unix.IPPROTO_UDP), verdict(expr.VerdictAccept))
			addRule(c, chain, fromLink(p.tap.index), isEchoRequest(), verdict(expr.VerdictAccept))
		}
		addRule(c, chain, fromLink(p.tap.index), jump(refuse))
	}
	for _, p := range cr.ports {
		addRule(c, chain, toLink(p.tap.index), wasTranslated(), verdict(expr.VerdictAccept))
		addRule(c, chain, toLink(p.tap.index), inDirection(replyDirection), inState(expr.CtStateBitESTABLISHED), verdict(expr.VerdictAccept))
	}
	if !g.Forward {
		return nil
	}
	post := c.AddChain(&nftables.Chain{
		Name: "leave", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting,
		Priority: nftables.ChainPriorityNATSource,
	})
	for _, p := range cr.ports {
		addRule(c, post, toLink(p.link.index), isIPv4(), addressIn(12, LinkNetwork), []expr.Any{&expr.Masq{}})
	}
	return nil
}

// from matches what a port's VM sends to a destination.
func (d Destination) from(p port) [][]expr.Any {
	match := [][]expr.Any{fromLink(p.tap.index), isIPv4(), toPrefix(d.Prefix)}
	if d.Port != 0 {
		match = append(match, transportIs(unix.IPPROTO_UDP), toPort(d.Port))
	}
	return match
}

// addDialGuard keeps the gateway's own connections from what listens in the
// namespace, whatever a name may resolve to.
func addDialGuard(c *nftables.Conn, table *nftables.Table) {
	chain := addFilter(c, table, "dial", nftables.ChainHookOutput, nftables.ChainPolicyAccept)
	addRule(c, chain,
		[]expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: reg}, equal(binaryutil.NativeEndian.PutUint32(DialMark))},
		toLink(loopbackIndex), transportIs(unix.IPPROTO_TCP), reset())
}

func addFilter(c *nftables.Conn, table *nftables.Table, name string, hook *nftables.ChainHook, policy nftables.ChainPolicy) *nftables.Chain {
	return c.AddChain(&nftables.Chain{
		Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: &policy,
	})
}

// reset refuses a connection at once.
func reset() []expr.Any { return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}} }

func jump(to *nftables.Chain) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: to.Name}}
}

func fromLink(index int) []expr.Any { return metaIs(expr.MetaKeyIIF, index) }
func toLink(index int) []expr.Any   { return metaIs(expr.MetaKeyOIF, index) }

func metaIs(key expr.MetaKey, index int) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: reg}, equal(binaryutil.NativeEndian.PutUint32(uint32(index)))}
}

func isIPv4() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg}, equal([]byte{unix.NFPROTO_IPV4})}
}

func transportIs(transport byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, equal([]byte{transport})}
}

func isEchoRequest() []expr.Any {
	return append(transportIs(unix.IPPROTO_ICMP), append(loadPayload(expr.PayloadBaseTransportHeader, reg, 0, 1), equal([]byte{8}))...)
}

func toPort(port uint16) []expr.Any {
	return append(loadPayload(expr.PayloadBaseTransportHeader, reg, 2, 2), equal(binaryutil.BigEndian.PutUint16(port)))
}

// addressIs matches an address of the IPv4 header: the source at 12, the
// destination at 16.
func addressIs(offset uint32, a netip.Addr) []expr.Any {
	return addressIn(offset, netip.PrefixFrom(a, 32))
}

func toPrefix(p netip.Prefix) []expr.Any { return addressIn(16, p) }

func addressIn(offset uint32, p netip.Prefix) []expr.Any {
	all := loadPayload(expr.PayloadBaseNetworkHeader, reg, offset, 4)
	mask := binaryutil.BigEndian.PutUint32(uint32(uint64(0xffffffff) << (32 - p.Bits()) & 0xffffffff))
	all = append(all, masked(mask)...)
	return append(all, equal(p.Masked().Addr().AsSlice()))
}

// setAddress changes an address of the IPv4 header, and the sums that are over
// it.
func setAddress(offset uint32, a netip.Addr) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: reg, Data: a.AsSlice()},
		&expr.Payload{
			OperationType: expr.PayloadWrite, SourceRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4,
			CsumType: expr.CsumTypeInet, CsumOffset: 10, CsumFlags: unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR,
		},
	}
}

func wasTranslated() []expr.Any {
	return ctHas(expr.CtKeySTATUS, translated)
}

func inState(bits uint32) []expr.Any { return ctHas(expr.CtKeySTATE, bits) }

// ctHas matches where a property of the connection has one of the bits.
func ctHas(key expr.CtKey, bits uint32) []expr.Any {
	all := []expr.Any{&expr.Ct{Register: reg, Key: key}}
	all = append(all, masked(binaryutil.NativeEndian.PutUint32(bits))...)
	return append(all, unequal(make([]byte, 4))...)
}

func inDirection(d byte) []expr.Any {
	return []expr.Any{&expr.Ct{Register: reg, Key: expr.CtKeyDIRECTION}, equal([]byte{d})}
}

func masked(mask []byte) []expr.Any {
	return []expr.Any{&expr.Bitwise{
		SourceRegister: reg, DestRegister: reg, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask)),
	}}
}

func unequal(data []byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: data}}
}
