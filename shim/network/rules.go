package network

import (
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// tableName is our one table, in the netdev family.
	tableName = "nanoclaw"
	// guestMark is on a frame of the guest's on its way out, and tells it from
	// what the namespace itself sends. Marks do not leave a namespace.
	guestMark = 0x6e63
	// ownTimeout is how long the answer to a packet of the namespace's own is
	// awaited. Docker's resolver gives up after 4 seconds, a relayed question
	// after questionTimeout.
	ownTimeout = 10 * time.Second
	// ownSize bounds the connections the namespace itself has open. In a flood
	// of names the further answers go to the guest, which drops them.
	ownSize = 65536
	// netfilterTimeout bounds the exchange with the kernel.
	netfilterTimeout = 5 * time.Second
)

// In these registers the parts of a set's key lie side by side.
const (
	key0 = unix.NFT_REG32_00
	reg  = unix.NFT_REG_1
)

// family is how the connections of one address family are told apart.
type family struct {
	set string
	// proto is the frame's type; keyType the type of an address.
	proto   uint16
	keyType nftables.SetDatatype
	// source and destination are offsets in the network header, size the
	// length of an address in bytes.
	source, destination, size uint32
}

var families = []family{
	{"own", unix.ETH_P_IP, nftables.TypeIPAddr, 12, 16, 4},
	{"own6", unix.ETH_P_IPV6, nftables.TypeIP6Addr, 8, 24, 16},
}

var transports = []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP}

// loadRules replaces our table by one for the given bindings, in one
// transaction: no frame meets a half of it.
func loadRules(ns *Namespace, bound []binding) error {
	return transact(ns, func(c *nftables.Conn) error {
		// Deleting a table that is not there is an error, so it is made first.
		t := newTable()
		c.AddTable(t)
		c.DelTable(t)
		c.AddTable(t)
		sets, err := addSets(c, t)
		if err != nil {
			return err
		}
		for _, b := range bound {
			addOut(c, t, sets, b)
			addIn(c, t, sets, b)
			addGuest(c, t, b)
		}
		return nil
	})
}

// unloadRules deletes our table, if it is there.
func unloadRules(ns *Namespace) error {
	return transact(ns, func(c *nftables.Conn) error {
		t := newTable()
		c.AddTable(t)
		c.DelTable(t)
		return nil
	})
}

func newTable() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: nftables.TableFamilyNetdev}
}

// transact sends what fill queues.
func transact(ns *Namespace, fill func(*nftables.Conn) error) error {
	c, err := connect(ns)
	if err != nil {
		return err
	}
	if err := fill(c); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("load nftables rules: %w", err)
	}
	return nil
}

func connect(ns *Namespace) (*nftables.Conn, error) {
	c, err := nftables.New(nftables.WithNetNSFd(ns.Fd()), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return c.SetDeadline(time.Now().Add(netfilterTimeout))
	}))
	if err != nil {
		return nil, fmt.Errorf("reach nftables: %w", err)
	}
	return c, nil
}

// addSets makes the sets of the connections that the namespace itself opened,
// by address of the other side, protocol, own port and the other's port.
func addSets(c *nftables.Conn, t *nftables.Table) ([]*nftables.Set, error) {
	var sets []*nftables.Set
	for i, f := range families {
		key, err := nftables.ConcatSetType(f.keyType, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeInetService)
		if err != nil {
			return nil, err
		}
		s := &nftables.Set{
			Table: t,
			Name:  f.set,
			// Given here because the library's own counter is not safe for
			// concurrent use. An ID counts within one transaction.
			ID:            uint32(i + 1),
			KeyType:       key,
			Concatenation: true,
			Dynamic:       true,
			HasTimeout:    true,
			Timeout:       ownTimeout,
			Size:          ownSize,
		}
		if err := c.AddSet(s, nil); err != nil {
			return nil, err
		}
		sets = append(sets, s)
	}
	return sets, nil
}

// addOut hooks what leaves by the interface, and remembers the connections of
// all that is not the guest's.
func addOut(c *nftables.Conn, t *nftables.Table, sets []*nftables.Set, b binding) {
	chain := addChain(c, t, "out", nftables.ChainHookEgress, b.link.name, b.link.index, nftables.ChainPolicyAccept)
	addRule(c, chain,
		[]expr.Any{
			&expr.Meta{Key: expr.MetaKeyMARK, Register: reg},
			equal(binaryutil.NativeEndian.PutUint32(guestMark)),
		}, verdict(expr.VerdictAccept))
	for i, f := range families {
		for _, proto := range transports {
			addRule(c, chain,
				isTransport(f.proto, proto),
				connectionKey(f, f.destination, 0, 2),
				[]expr.Any{&expr.Dynset{
					SrcRegKey: key0,
					SetName:   sets[i].Name,
					SetID:     sets[i].ID,
					Operation: unix.NFT_DYNSET_OP_UPDATE,
				}})
		}
	}
}

// addIn hooks what arrives at the interface: everything goes to the guest and
// only to it, but for what the namespace's own connections need.
func addIn(c *nftables.Conn, t *nftables.Table, sets []*nftables.Set, b binding) {
	chain := addChain(c, t, "in", nftables.ChainHookIngress, b.link.name, b.link.index, nftables.ChainPolicyDrop)
	toGuest := duplicate(b.tap.index)
	// The namespace finds its gateway by the same address as the guest does, so
	// both need the answer.
	addRule(c, chain,
		isProtocol(unix.ETH_P_ARP),
		loadPayload(expr.PayloadBaseNetworkHeader, reg, 6, 2),
		[]expr.Any{equal(binaryutil.BigEndian.PutUint16(2))},
		toGuest, verdict(expr.VerdictAccept))
	addRule(c, chain,
		isTransport(unix.ETH_P_IPV6, unix.IPPROTO_ICMPV6),
		loadPayload(expr.PayloadBaseTransportHeader, reg, 0, 1),
		// Neighbour advertisement.
		[]expr.Any{equal([]byte{136})},
		toGuest, verdict(expr.VerdictAccept))
	for i, f := range families {
		for _, proto := range transports {
			addRule(c, chain,
				isTransport(f.proto, proto),
				connectionKey(f, f.source, 2, 0),
				[]expr.Any{&expr.Lookup{SourceRegister: key0, SetName: sets[i].Name, SetID: sets[i].ID}},
				verdict(expr.VerdictAccept))
		}
	}
	addRule(c, chain, toGuest, verdict(expr.VerdictDrop))
}

// addGuest hooks what the guest sends.
func addGuest(c *nftables.Conn, t *nftables.Table, b binding) {
	chain := addChain(c, t, "guest", nftables.ChainHookIngress, b.tap.name, b.tap.index, nftables.ChainPolicyDrop)
	addRule(c, chain,
		[]expr.Any{
			&expr.Immediate{Register: reg, Data: binaryutil.NativeEndian.PutUint32(guestMark)},
			&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg},
		},
		duplicate(b.link.index), verdict(expr.VerdictDrop))
}

func addChain(c *nftables.Conn, t *nftables.Table, name string, hook *nftables.ChainHook, device string, index int, policy nftables.ChainPolicy) *nftables.Chain {
	return c.AddChain(&nftables.Chain{
		Name:     fmt.Sprintf("%s_%d", name, index),
		Table:    t,
		Type:     nftables.ChainTypeFilter,
		Hooknum:  hook,
		Priority: nftables.ChainPriorityFilter,
		Policy:   &policy,
		Device:   device,
	})
}

func addRule(c *nftables.Conn, chain *nftables.Chain, parts ...[]expr.Any) {
	var exprs []expr.Any
	for _, p := range parts {
		exprs = append(exprs, p...)
	}
	c.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: exprs})
}

// isProtocol matches the kind of frame.
func isProtocol(proto uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: reg},
		equal(binaryutil.BigEndian.PutUint16(proto)),
	}
}

// isTransport matches the kind of frame and what it carries.
func isTransport(proto uint16, transport byte) []expr.Any {
	return append(isProtocol(proto),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
		equal([]byte{transport}))
}

// connectionKey puts a set's key into the registers from key0 on: the address
// at the given offset, the protocol, the port at ownPort and that at otherPort.
func connectionKey(f family, address, ownPort, otherPort uint32) []expr.Any {
	next := key0 + f.size/4
	parts := loadPayload(expr.PayloadBaseNetworkHeader, key0, address, f.size)
	parts = append(parts, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: next})
	parts = append(parts, loadPayload(expr.PayloadBaseTransportHeader, next+1, ownPort, 2)...)
	return append(parts, loadPayload(expr.PayloadBaseTransportHeader, next+2, otherPort, 2)...)
}

func loadPayload(base expr.PayloadBase, register, offset, size uint32) []expr.Any {
	return []expr.Any{&expr.Payload{
		OperationType: expr.PayloadLoad,
		Base:          base,
		DestRegister:  register,
		Offset:        offset,
		Len:           size,
	}}
}

func equal(data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: data}
}

func verdict(kind expr.VerdictKind) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind}}
}

// duplicate sends a copy of the frame out by a device. With a drop after it,
// it is what "fwd" would be, for which the library has no expression.
func duplicate(device int) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: reg, Data: binaryutil.NativeEndian.PutUint32(uint32(device))},
		&expr.Dup{RegDev: reg, IsRegDevSet: true},
	}
}
