package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Gateway is what decides about a network whose connections are not passed but
// taken: it listens in the namespace, and makes the connections that it allows
// itself. It is package egress's; this package leads the guest's packets to it.
type Gateway struct {
	// Closed says that nothing passes, in either direction.
	Closed bool
	// TCP is the port at which the guest's connections are taken, DNSOverUDP and
	// DNSOverTCP where its questions for names are.
	TCP, DNSOverUDP, DNSOverTCP uint16
	// Forward says that datagrams and echo requests pass, but to Denied. Without
	// it none do.
	Forward bool
	Denied  []Destination
	// Noted are those of what passes to where it is remembered.
	Noted []Destination
	// Changed is told the container's addresses, each with its network, before
	// anything is led there. Of bridged are those of networks that are the engine's
	// own, and not a network of the host's that the container was put into.
	Changed func(own, bridged []netip.Prefix)
}

// Destination is where packets go; a port of 0 is any.
type Destination struct {
	Prefix netip.Prefix
	Port   uint16
}

// DialMark is to be on the sockets of connections that a gateway makes for the
// guest: they never reach what listens in the namespace itself.
const DialMark = 0x6e64

// LinkNetwork are the addresses between the namespace and the VM. Nothing else
// may be reached by them.
var LinkNetwork = netip.MustParsePrefix("169.254.77.0/24")

// tapAddress is the namespace's end of every tap.
var tapAddress = netip.MustParseAddr("169.254.77.1")

// maxInside bounds the addresses of a container: each has one in LinkNetwork.
const maxInside = 200

// NewGateway is [New] for a network of which g decides.
func NewGateway(ns *Namespace, relayDNS func() bool, g Gateway) *Network {
	n := New(ns, relayDNS)
	n.gateway = &passage{Gateway: g, inside: map[netip.Addr]netip.Addr{}}
	return n
}

// passage is a gateway as the network knows it.
type passage struct {
	Gateway
	// inside is, for each address that the container has or had, the one that
	// stands for it between the VM and the namespace. Since the namespace has the
	// container's address itself, packets with that source would not be taken.
	inside map[netip.Addr]netip.Addr
	// loaded is what the rules were made of.
	loaded *crossing
	// forwarding is what the namespace's setting was; nil: not touched.
	forwarding []byte
}

// crossing is what the rules of a gateway are made of.
type crossing struct {
	ports []port
	// idle are the taps that serve no interface.
	idle []*tap
}

// port is an interface of the namespace, and the VM's that stands for it.
type port struct {
	link   link
	tap    *tap
	tapMAC net.HardwareAddr
	addrs  []translation
}

// translation is one address of the container's.
type translation struct {
	outside, inside netip.Addr
}

func (c crossing) equal(o *crossing) bool {
	return o != nil && slices.Equal(c.idle, o.idle) && slices.EqualFunc(c.ports, o.ports, func(a, b port) bool {
		return a.link.index == b.link.index && a.tap == b.tap && slices.Equal(a.link.mac, b.link.mac) && a.link.mtu == b.link.mtu &&
			slices.Equal(a.tapMAC, b.tapMAC) && slices.Equal(a.addrs, b.addrs)
	})
}

func (c crossing) translations() (all []translation) {
	for _, p := range c.ports {
		all = append(all, p.addrs...)
	}
	return all
}

// cross leads all that the guest sends to the gateway, and what is sent to the
// container to the guest.
func (n *Network) cross(v view, bound []binding) (crossing, error) {
	c, own, bridged, err := n.crossing(v, bound)
	if err != nil {
		return c, err
	}
	if unhooked := n.unhooked.Swap(false); unhooked || !c.equal(n.gateway.loaded) {
		if n.gateway.Changed != nil {
			n.gateway.Changed(own, bridged)
		}
		if err := n.loadCrossing(c); err != nil {
			n.unhooked.Store(true)
			return c, err
		}
		n.gateway.loaded = &c
	}
	n.bound = bound
	return c, nil
}

func (n *Network) loadCrossing(c crossing) error {
	n.loaded = true
	if err := loadGatewayRules(n.ns, &n.gateway.Gateway, c); err != nil {
		return errors.Join(fmt.Errorf("lead the container's connections to the gateway: %w", err), CheckGateway())
	}
	if n.gateway.Closed {
		return nil
	}
	return n.ns.Do(func() error {
		for _, p := range c.ports {
			if err := p.prepare(); err != nil {
				return fmt.Errorf("interface %s: %w", p.link.name, err)
			}
		}
		// Last: the rules say by now what is forwarded, and what is not.
		return n.gateway.forward()
	})
}

// crossing works out what the rules are to be, and the container's addresses.
func (n *Network) crossing(v view, bound []binding) (c crossing, own, bridged []netip.Prefix, err error) {
	for _, t := range n.taps {
		if !slices.ContainsFunc(bound, func(b binding) bool { return b.tap == t }) {
			c.idle = append(c.idle, t)
		}
	}
	for _, b := range bound {
		p := port{link: b.link, tap: b.tap, tapMAC: b.tap.hostMAC}
		for _, a := range v.addrs {
			prefix, ok := prefixOf(a.IPNet)
			if !ok || a.LinkIndex != b.link.index {
				continue
			}
			own = append(own, prefix)
			// A macvlan or ipvlan is on a network of the host's.
			if b.link.kind == "veth" {
				bridged = append(bridged, prefix)
			}
			if !prefix.Addr().Is4() {
				continue
			}
			inside, err := n.gateway.standIn(prefix.Addr())
			if err != nil {
				return c, nil, nil, err
			}
			p.addrs = append(p.addrs, translation{prefix.Addr(), inside})
		}
		c.ports = append(c.ports, p)
	}
	return c, own, bridged, nil
}

// standIn returns the address that stands for the container's. It stays the
// same as long as the container is there, since connections are known by it.
func (g *passage) standIn(outside netip.Addr) (netip.Addr, error) {
	if a, ok := g.inside[outside]; ok {
		return a, nil
	}
	if len(g.inside) >= maxInside {
		return netip.Addr{}, fmt.Errorf("the container has had more than %d addresses", maxInside)
	}
	last := tapAddress.As4()
	last[3] += byte(1 + len(g.inside))
	a := netip.AddrFrom4(last)
	g.inside[outside] = a
	return a, nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), ok
}

func (t translation) route(index int) *netlink.Route {
	return &netlink.Route{
		LinkIndex: index, Scope: netlink.SCOPE_LINK,
		Dst: &net.IPNet{IP: t.inside.AsSlice(), Mask: net.CIDRMask(32, 32)},
	}
}

// prepare makes the tap a link of the namespace's. It runs in the namespace.
func (p port) prepare() error {
	l, err := netlink.LinkByIndex(p.tap.index)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetMTU(l, p.link.mtu); err != nil {
		return fmt.Errorf("set the MTU of its tap: %w", err)
	}
	// Answers to what came by one interface may leave the guest by another.
	if err := os.WriteFile(filepath.Join("/proc/sys/net/ipv4/conf", p.tap.name, "rp_filter"), []byte("2"), 0); err != nil {
		return err
	}
	err = netlink.AddrReplace(l, &netlink.Addr{
		IPNet: &net.IPNet{IP: tapAddress.AsSlice(), Mask: net.CIDRMask(32, 32)}, Scope: unix.RT_SCOPE_LINK,
	})
	if err != nil {
		return fmt.Errorf("give its tap an address: %w", err)
	}
	for _, t := range p.addrs {
		if err := netlink.RouteReplace(t.route(p.tap.index)); err != nil {
			return fmt.Errorf("route to the VM: %w", err)
		}
		err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex: p.tap.index, State: netlink.NUD_PERMANENT, IP: t.inside.AsSlice(), HardwareAddr: p.link.mac,
		})
		if err != nil {
			return fmt.Errorf("name the VM's link-layer address: %w", err)
		}
	}
	return nil
}

const forwardingSetting = "/proc/sys/net/ipv4/ip_forward"

// forward lets the namespace forward packets. It runs in the namespace.
func (g *passage) forward() error {
	if g.forwarding != nil {
		return nil
	}
	was, err := os.ReadFile(forwardingSetting)
	if err != nil {
		return err
	}
	if err := os.WriteFile(forwardingSetting, []byte("1"), 0); err != nil {
		return fmt.Errorf("let the container's network namespace forward packets: %w", err)
	}
	g.forwarding = []byte(strings.TrimSpace(string(was)))
	return nil
}

// uncross takes everything out of the namespace again.
func (n *Network) uncross() error {
	var errs []error
	if was := n.gateway.forwarding; was != nil {
		errs = append(errs, n.ns.Do(func() error { return os.WriteFile(forwardingSetting, was, 0) }))
	}
	return errors.Join(append(errs, unloadGatewayRules(n.ns))...)
}
