package egress

import (
	"container/list"
	"encoding/binary"
	"net/netip"
	"sync"
)

// maxNames bounds the names that have an address at a time. What was not asked
// for longest loses its.
const maxNames = 16384

// names are the addresses that stand for names, and the names they stand for.
type names struct {
	mu     sync.Mutex
	byName map[string]*list.Element
	byAddr map[netip.Addr]*list.Element
	// used has the latest first.
	used list.List
}

type standing struct {
	name string
	addr netip.Addr
}

func newNames() *names {
	return &names{byName: map[string]*list.Element{}, byAddr: map[netip.Addr]*list.Element{}}
}

// address returns the address that stands for a name.
func (n *names) address(name string) netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	if e, ok := n.byName[name]; ok {
		n.used.MoveToFront(e)
		return e.Value.(*standing).addr
	}
	if n.used.Len() < maxNames {
		s := &standing{name: name, addr: poolAddress(n.used.Len())}
		n.byName[name] = n.used.PushFront(s)
		n.byAddr[s.addr] = n.byName[name]
		return s.addr
	}
	e := n.used.Back()
	s := e.Value.(*standing)
	delete(n.byName, s.name)
	s.name = name
	n.byName[name] = e
	n.used.MoveToFront(e)
	return s.addr
}

// name returns the name that an address stands for.
func (n *names) name(a netip.Addr) (string, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e, ok := n.byAddr[a]
	if !ok {
		return "", false
	}
	n.used.MoveToFront(e)
	return e.Value.(*standing).name, true
}

// poolAddress is the address of that number, from 0 on. The pool's first is left
// out.
func poolAddress(number int) netip.Addr {
	first := Pool.Addr().As4()
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(first[:])+1+uint32(number))
	return netip.AddrFrom4(a)
}
