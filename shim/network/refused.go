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
	// refusedSet remembers to where packets were refused, notedSet to where they
	// passed and were to be noted, until they are asked for.
	refusedSet, notedSet = "refused", "noted"
	refusedSize          = 1024
	refusedTimeout       = time.Minute
)

// Refused is a destination to which packets were refused that are no
// connections: those are the gateway's to refuse.
type Refused struct {
	Destination netip.AddrPort
	// Protocol is that of the IP header.
	Protocol uint8
	// Passed says that the packets were only noted.
	Passed bool
}

// memory is a set that packets' destinations are put into.
type memory struct{ set *nftables.Set }

func addMemory(c *nftables.Conn, table *nftables.Table, name string, id uint32) (memory, error) {
	set, err := destinations(name)
	if err != nil {
		return memory{}, err
	}
	set.Table, set.ID = table, id
	set.Dynamic, set.HasTimeout, set.Timeout, set.Size = true, true, refusedTimeout, refusedSize
	return memory{set}, c.AddSet(set, nil)
}

func destinations(name string) (*nftables.Set, error) {
	key, err := nftables.ConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	return &nftables.Set{Table: gatewayTable(), Name: name, KeyType: key, Concatenation: true}, err
}

func (m memory) remember(port []expr.Any) []expr.Any {
	all := loadPayload(expr.PayloadBaseNetworkHeader, key0, 16, 4)
	all = append(all, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: key0 + 1})
	all = append(all, port...)
	return append(all, &expr.Dynset{SrcRegKey: key0, SetName: m.set.Name, SetID: m.set.ID, Operation: unix.NFT_DYNSET_OP_UPDATE})
}

// ofPort and noPort put the third part of a set's key into its register.
func ofPort() []expr.Any { return loadPayload(expr.PayloadBaseTransportHeader, key0+2, 2, 2) }
func noPort() []expr.Any { return []expr.Any{&expr.Immediate{Register: key0 + 2, Data: []byte{0, 0}}} }

// addRefuse makes the chain that refuses a packet, so that its sender knows.
func addRefuse(c *nftables.Conn, table *nftables.Table) (*nftables.Chain, error) {
	m, err := addMemory(c, table, refusedSet, 1)
	if err != nil {
		return nil, err
	}
	chain := c.AddChain(&nftables.Chain{Name: "refuse", Table: table})
	unreachable := func(code uint8) []expr.Any {
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: code}}
	}
	addRule(c, chain, isIPv4(), transportIs(unix.IPPROTO_UDP), m.remember(ofPort()), unreachable(portUnreachable))
	addRule(c, chain, isIPv4(), isEchoRequest(), m.remember(noPort()), unreachable(prohibited))
	// What is here of TCP is of no connection any more, and what is here of ICMP
	// is an error about a packet that came: nobody tried to reach anything.
	addRule(c, chain, transportIs(unix.IPPROTO_TCP), verdict(expr.VerdictDrop))
	addRule(c, chain, transportIs(unix.IPPROTO_ICMP), verdict(expr.VerdictDrop))
	addRule(c, chain, isIPv4(), m.remember(noPort()), verdict(expr.VerdictDrop))
	return chain, nil
}

// addNote makes the chain that remembers to where a packet is, and returns.
func addNote(c *nftables.Conn, table *nftables.Table) (*nftables.Chain, error) {
	m, err := addMemory(c, table, notedSet, 2)
	if err != nil {
		return nil, err
	}
	chain := c.AddChain(&nftables.Chain{Name: "note", Table: table})
	addRule(c, chain, transportIs(unix.IPPROTO_UDP), m.remember(ofPort()))
	addRule(c, chain, isEchoRequest(), m.remember(noPort()))
	return chain, nil
}

// Refused returns to where packets were refused, or noted, since it was last
// asked, each destination once.
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
	all, err := take(c, refusedSet)
	if err != nil || len(n.gateway.Noted) == 0 {
		return all, err
	}
	passed, err := take(c, notedSet)
	for _, r := range passed {
		r.Passed = true
		all = append(all, r)
	}
	return all, err
}

// take empties a set of destinations.
func take(c *nftables.Conn, name string) ([]Refused, error) {
	set, err := destinations(name)
	if err != nil {
		return nil, err
	}
	elements, err := c.GetSetElements(set)
	if err != nil {
		return nil, fmt.Errorf("read to where packets were %s: %w", name, err)
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
		return nil, fmt.Errorf("forget to where packets were %s: %w", name, err)
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
