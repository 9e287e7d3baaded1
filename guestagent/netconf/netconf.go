// Package netconf gives the sandbox its network: a namespace of its own, into
// which the VM's cards are moved and made to look like the interfaces of the
// container's namespace on the host.
//
// Apply takes the whole wanted state every time and changes only what differs.
// What the container has set up by itself is left alone. This package does
// not decide what the container may reach: that is the host's.
package netconf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// cardTime is how long a card may take to appear: the host plugs it in and
// then calls.
const cardTime = 10 * time.Second

// Resolver answers the container's DNS questions on sockets of the sandbox.
type Resolver interface {
	// Serve takes over both sockets until they are closed.
	Serve(udp net.PacketConn, tcp net.Listener)
}

// Sandbox is the network namespace that the VM's containers share.
type Sandbox struct {
	path     string
	resolver Resolver
	// outside is the VM's first namespace, where cards appear.
	outside, inside     *netlink.Handle
	outsideNS, insideNS netns.NsHandle

	mu sync.Mutex
	// cards holds the index within the sandbox of every card moved there, by
	// the address that it was built with.
	cards map[mac]int
	// settings are those that were applied to a card.
	settings map[mac]map[string]string
	// routes are those that were applied.
	routes []appliedRoute
	dns    *sockets
}

type appliedRoute struct {
	route
	index int
}

// New makes the namespace, with its loopback up, and mounts it on path.
func New(path string, resolver Resolver) (_ *Sandbox, err error) {
	s := &Sandbox{path: path, resolver: resolver, cards: make(map[mac]int), settings: make(map[mac]map[string]string), outsideNS: netns.None(), insideNS: netns.None()}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.outsideNS, err = netns.Get(); err != nil {
		return nil, fmt.Errorf("open the network namespace: %w", err)
	}
	if err := makeNamespace(path); err != nil {
		return nil, fmt.Errorf("make the sandbox's network namespace: %w", err)
	}
	if s.insideNS, err = netns.GetFromPath(path); err != nil {
		return nil, fmt.Errorf("open the sandbox's network namespace: %w", err)
	}
	if s.outside, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, err
	}
	if s.inside, err = netlink.NewHandleAt(s.insideNS, unix.NETLINK_ROUTE); err != nil {
		return nil, err
	}
	lo, err := s.inside.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("find loopback: %w", err)
	}
	if err := s.inside.LinkSetUp(lo); err != nil {
		return nil, fmt.Errorf("set loopback up: %w", err)
	}
	return s, nil
}

// Path is where the namespace is mounted.
func (s *Sandbox) Path() string { return s.path }

// Close lets go of the namespace. It ends with the last process in it.
func (s *Sandbox) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The rules end with the namespace.
	_ = s.closeDNSLocked()
	for _, h := range []*netlink.Handle{s.outside, s.inside} {
		if h != nil {
			h.Close()
		}
	}
	for _, ns := range []*netns.NsHandle{&s.outsideNS, &s.insideNS} {
		if ns.IsOpen() {
			_ = ns.Close()
		}
	}
	if unix.Unmount(s.path, unix.MNT_DETACH) == nil {
		_ = os.Remove(s.path)
	}
}

func makeNamespace(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	})
}

// Apply makes the sandbox's network look like state; nil leaves only loopback.
func (s *Sandbox) Apply(ctx context.Context, state *agent.NetworkState) error {
	w, err := check(state)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.applyLinksLocked(ctx, w); err != nil {
		return err
	}
	if err := s.applyRoutesLocked(w); err != nil {
		return err
	}
	if err := s.applyNeighborsLocked(w); err != nil {
		return err
	}
	return s.applyDNSLocked(w.dns)
}

// applyNeighborsLocked tells the kernel the link-layer addresses that it need
// not ask for. One that is not wanted any more is of no use and does no harm.
func (s *Sandbox) applyNeighborsLocked(w wanted) error {
	for _, n := range w.neighbors {
		i := slices.IndexFunc(w.links, func(l link) bool { return l.name == n.link })
		err := s.inside.NeighSet(&netlink.Neigh{
			LinkIndex: s.cards[w.links[i].device], State: netlink.NUD_PERMANENT,
			IP: n.address.AsSlice(), HardwareAddr: n.mac.hardware(),
		})
		if err != nil {
			return fmt.Errorf("network: neighbor %s of %s: %w", n.address, n.link, err)
		}
	}
	return nil
}

func (s *Sandbox) applyLinksLocked(ctx context.Context, w wanted) error {
	if err := s.releaseLocked(w); err != nil {
		return err
	}
	for _, l := range w.links {
		if err := s.adoptLocked(ctx, l.device); err != nil {
			return fmt.Errorf("network: interface %s: %w", l.name, err)
		}
	}
	// Names are freed before they are given, for two cards may swap theirs.
	for _, l := range w.links {
		if err := s.renameLocked(l, temporary(l.device)); err != nil {
			return fmt.Errorf("network: interface %s: %w", l.name, err)
		}
	}
	for _, l := range w.links {
		if err := s.renameLocked(l, l.name); err != nil {
			return fmt.Errorf("network: interface %s: %w", l.name, err)
		}
		if err := s.configureLocked(ctx, l); err != nil {
			return fmt.Errorf("network: interface %s: %w", l.name, err)
		}
	}
	return nil
}

// temporary is a card's name while it has none of the container's.
func temporary(device mac) string { return fmt.Sprintf("nc%x", device[:]) }

// releaseLocked moves the cards that are not wanted out of the sandbox.
func (s *Sandbox) releaseLocked(w wanted) error {
	for device, index := range s.cards {
		if slices.ContainsFunc(w.links, func(l link) bool { return l.device == device }) {
			continue
		}
		l, err := s.inside.LinkByIndex(index)
		if isGone(err) {
			// Unplugged.
			delete(s.cards, device)
			continue
		}
		if err == nil {
			err = s.release(l, device)
		}
		if err != nil && !isGone(err) {
			return fmt.Errorf("network: take card %s back: %w", device.hardware(), err)
		}
		delete(s.cards, device)
	}
	return nil
}

func (s *Sandbox) release(l netlink.Link, device mac) error {
	if err := s.inside.LinkSetDown(l); err != nil {
		return err
	}
	if err := s.inside.LinkSetName(l, temporary(device)); err != nil {
		return err
	}
	return s.inside.LinkSetNsFd(l, int(s.outsideNS))
}

func isGone(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, unix.ENODEV)
}

// adoptLocked moves the card of that address into the sandbox, unless it is
// there, and waits for it to appear.
func (s *Sandbox) adoptLocked(ctx context.Context, device mac) error {
	if index, ok := s.cards[device]; ok {
		if _, err := s.inside.LinkByIndex(index); err == nil {
			return nil
		}
		// Unplugged, and another one plugged in with its address.
		delete(s.cards, device)
	}
	ctx, cancel := context.WithTimeout(ctx, cardTime)
	defer cancel()
	for {
		l, err := find(s.outside, device)
		if err != nil {
			return err
		}
		if l != nil {
			return s.moveLocked(l, device)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the VM has no network card with address %s", device.hardware())
		}
	}
}

func find(h *netlink.Handle, device mac) (netlink.Link, error) {
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list network cards: %w", err)
	}
	for _, l := range links {
		a := l.Attrs()
		if slices.Equal(a.PermHWAddr, device.hardware()) || slices.Equal(a.HardwareAddr, device.hardware()) {
			return l, nil
		}
	}
	return nil, nil
}

func (s *Sandbox) moveLocked(l netlink.Link, device mac) error {
	name := temporary(device)
	if err := s.outside.LinkSetDown(l); err != nil {
		return err
	}
	if err := s.outside.LinkSetName(l, name); err != nil {
		return err
	}
	if err := s.outside.LinkSetNsFd(l, int(s.insideNS)); err != nil {
		return err
	}
	moved, err := s.inside.LinkByName(name)
	if err != nil {
		return err
	}
	s.cards[device] = moved.Attrs().Index
	// In a namespace that is new to it, a card begins with the defaults.
	delete(s.settings, device)
	return nil
}

// renameLocked names the card of l, if its name is not l's already.
func (s *Sandbox) renameLocked(l link, name string) error {
	card, err := s.inside.LinkByIndex(s.cards[l.device])
	if err != nil {
		return err
	}
	if card.Attrs().Name == l.name {
		return nil
	}
	if err := s.inside.LinkSetDown(card); err != nil {
		return err
	}
	if err := s.inside.LinkSetName(card, name); err != nil {
		return fmt.Errorf("name it %s: %w", name, err)
	}
	return nil
}

func (s *Sandbox) configureLocked(ctx context.Context, l link) error {
	card, err := s.inside.LinkByIndex(s.cards[l.device])
	if err != nil {
		return err
	}
	if !slices.Equal(card.Attrs().HardwareAddr, l.mac.hardware()) {
		if err := s.inside.LinkSetDown(card); err != nil {
			return err
		}
		if err := s.inside.LinkSetHardwareAddr(card, l.mac.hardware()); err != nil {
			return fmt.Errorf("set address %s: %w", l.mac.hardware(), err)
		}
	}
	if l.mtu != 0 && card.Attrs().MTU != l.mtu {
		if err := s.inside.LinkSetMTU(card, l.mtu); err != nil {
			return fmt.Errorf("set MTU %d: %w", l.mtu, err)
		}
	}
	if err := s.switchIPv6(l); err != nil {
		return err
	}
	if err := s.applySettings(ctx, l); err != nil {
		return err
	}
	if err := s.applyAddresses(card, l); err != nil {
		return err
	}
	if err := s.inside.LinkSetUp(card); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}

// switchIPv6 turns IPv6 off on an interface that has no such address on the
// host, or it would get one of its own making.
func (s *Sandbox) switchIPv6(l link) error {
	value := "1"
	if l.hasIPv6() {
		value = "0"
	}
	return s.do(func() error {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+l.name+"/disable_ipv6", []byte(value), 0)
		if errors.Is(err, os.ErrNotExist) && !l.hasIPv6() {
			return nil
		}
		return err
	})
}

func (s *Sandbox) applyAddresses(card netlink.Link, l link) error {
	present, err := s.inside.AddrList(card, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	have := make(map[netip.Prefix]bool)
	for i := range present {
		p, ok := prefixOf(present[i].IPNet)
		if !ok {
			continue
		}
		if slices.Contains(l.addresses, p) {
			have[p] = true
			continue
		}
		if p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
			// The kernel's own.
			continue
		}
		if err := s.inside.AddrDel(card, &present[i]); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %s: %w", p, err)
		}
	}
	for _, p := range l.addresses {
		if have[p] {
			continue
		}
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			// The host has had the address for itself since before the VM was.
			addr.Flags = unix.IFA_F_NODAD
		}
		if l.routeless {
			addr.Flags |= unix.IFA_F_NOPREFIXROUTE
		}
		if err := s.inside.AddrReplace(card, addr); err != nil {
			return fmt.Errorf("add address %s: %w", p, err)
		}
	}
	return nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), ok
}

func (s *Sandbox) applyRoutesLocked(w wanted) error {
	var next []appliedRoute
	for _, r := range w.routes {
		i := slices.IndexFunc(w.links, func(l link) bool { return l.name == r.link })
		next = append(next, appliedRoute{route: r, index: s.cards[w.links[i].device]})
	}
	for _, r := range s.routes {
		if slices.Contains(next, r) {
			continue
		}
		// It went with its interface, or the container removed it.
		err := s.inside.RouteDel(r.netlink(r.index))
		if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("network: remove the route to %s: %w", r.destination, err)
		}
	}
	s.routes = nil
	for _, r := range next {
		if err := s.inside.RouteReplace(r.netlink(r.index)); err != nil {
			return fmt.Errorf("network: route to %s by %s: %w", r.destination, r.link, err)
		}
		s.routes = append(s.routes, r)
	}
	return nil
}
