package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const (
	// refusedSet remembers to where packets were refused, until they are asked for.
	refusedSet     = "refused"
	refusedSize    = 1024
	refusedTimeout = time.Minute
)

// Refused is a destination to which packets were refused that are no
// connections: those are the gateway's to refuse.
type Refused struct {
	Destination netip.AddrPort
	// Protocol is that of the IP header.
	Protocol uint8
}

// addRefuse makes the chain that refuses a packet, so that its sender knows.
func addRefuse(c *nftables.Conn, table *nftables.Table) (*nftables.Chain, error) {
	key, err := nftables.ConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	if err != nil {
		return nil, err
	}
	set := &nftables.Set{
		Table: table, Name: refusedSet, ID: 1, KeyType: key, Concatenation: true,
		Dynamic: true, HasTimeout: true, Timeout: refusedTimeout, Size: refusedSize,
	}
	if err := c.AddSet(set, nil); err != nil {
		return nil, err
	}
	chain := c.AddChain(&nftables.Chain{Name: "refuse", Table: table})
	remember := func(port []expr.Any) []expr.Any {
		all := loadPayload(expr.PayloadBaseNetworkHeader, key0, 16, 4)
		all = append(all, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: key0 + 1})
		all = append(all, port...)
		return append(all, &expr.Dynset{SrcRegKey: key0, SetName: set.Name, SetID: set.ID, Operation: unix.NFT_DYNSET_OP_UPDATE})
	}
	unreachable := func(code uint8) []expr.Any {
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: code}}
	}
	addRule(c, chain, isIPv4(), transportIs(unix.IPPROTO_UDP), remember(loadPayload(expr.PayloadBaseTransportHeader, key0+2, 2, 2)), unreachable(portUnreachable))
	noPort := []expr.Any{&expr.Immediate{Register: key0 + 2, Data: []byte{0, 0}}}
	addRule(c, chain, isIPv4(), isEchoRequest(), remember(noPort), unreachable(prohibited))
	// What is here of TCP is of no connection any more, and what is here of ICMP
	// is an error about a packet that came: nobody tried to reach anything.
	addRule(c, chain, transportIs(unix.IPPROTO_TCP), verdict(expr.VerdictDrop))
	addRule(c, chain, transportIs(unix.IPPROTO_ICMP), verdict(expr.VerdictDrop))
	addRule(c, chain, isIPv4(), remember(noPort), verdict(expr.VerdictDrop))
	return chain, nil
}

// Refused returns to where packets were refused since it was last asked, each
// destination once.
func (n *Network) Refused() ([]Refused, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gateway == nil || n.gateway.loaded == nil || n.gateway.Closed || n.closed {
		return nil, nil
	}
	c, err := connect(n.ns)
	if err != nil {
		return nil, err
	}
	key, err := nftables.ConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	if err != nil {
		return nil, err
	}
	set := &nftables.Set{Table: gatewayTable(), Name: refusedSet, KeyType: key, Concatenation: true}
	elements, err := c.GetSetElements(set)
	if err != nil {
		return nil, fmt.Errorf("read to where packets were refused: %w", err)
	}
	var all []Refused
	var taken []nftables.SetElement
	for _, e := range elements {
		if r, ok := parseRefused(e.Key); ok {
			all = append(all, r)
			taken = append(taken, nftables.SetElement{Key: e.Key})
		}
	}
	if len(taken) == 0 {
		return nil, nil
	}
	if err := c.SetDeleteElements(set, taken); err != nil {
		return nil, err
	}
	if err := c.Flush(); err != nil {
		return nil, fmt.Errorf("forget to where packets were refused: %w", err)
	}
	return all, nil
}

// parseRefused reads an element's key: each part fills up to four bytes.
func parseRefused(key []byte) (Refused, bool) {
	if len(key) != 12 {
		return Refused{}, false
	}
	return Refused{
		Destination: netip.AddrPortFrom(netip.AddrFrom4([4]byte(key[:4])), binary.BigEndian.Uint16(key[8:])),
		Protocol:    key[4],
	}, true
}
