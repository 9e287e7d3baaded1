package netconf

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	maxInterfaces = 64
	maxAddresses  = 64
	maxRoutes     = 1024
	maxNeighbors  = 1024
)

// mac is an Ethernet address.
type mac [6]byte

func (m mac) hardware() net.HardwareAddr { return m[:] }

// wanted is a NetworkState that was checked.
type wanted struct {
	links     []link
	routes    []route
	neighbors []neighbor
	dns       bool
}

type link struct {
	name        string
	mac, device mac
	mtu         int
	addresses   []netip.Prefix
	// routeless: the addresses make no routes.
	routeless bool
	settings  map[string]string
}

func (l link) hasIPv6() bool {
	return slices.ContainsFunc(l.addresses, func(p netip.Prefix) bool { return p.Addr().Is6() })
}

type route struct {
	destination netip.Prefix
	gateway     netip.Addr
	source      netip.Addr
	link        string
	scope       uint8
	onlink      bool
	metric      int
}

// neighbor is an address whose link-layer address is known.
type neighbor struct {
	link    string
	address netip.Addr
	mac     mac
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("network: "+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// check turns what the host sent into what shall be.
func check(s *agent.NetworkState) (wanted, error) {
	w := wanted{dns: s.GetRelayDns()}
	if len(s.GetInterfaces()) > maxInterfaces || len(s.GetRoutes()) > maxRoutes {
		return w, invalid("more than %d interfaces or %d routes", maxInterfaces, maxRoutes)
	}
	names := make(map[string]bool)
	devices := make(map[mac]bool)
	for _, i := range s.GetInterfaces() {
		l, err := checkLink(i)
		if err != nil {
			return w, err
		}
		if names[l.name] || devices[l.device] {
			return w, invalid("interface %s is named twice", l.name)
		}
		names[l.name], devices[l.device] = true, true
		w.links = append(w.links, l)
	}
	for _, r := range s.GetRoutes() {
		c, err := checkRoute(r)
		if err != nil {
			return w, err
		}
		if !names[c.link] {
			return w, invalid("a route by interface %.20q, which is not there", c.link)
		}
		if !w.automatic(c) {
			w.routes = append(w.routes, c)
		}
	}
	if len(s.GetNeighbors()) > maxNeighbors {
		return w, invalid("more than %d neighbors", maxNeighbors)
	}
	for _, n := range s.GetNeighbors() {
		c := neighbor{link: n.GetInterface()}
		var err error
		if c.mac, err = checkMAC(n.GetMac()); err != nil {
			return w, err
		}
		if c.address, err = netip.ParseAddr(n.GetAddress()); err != nil || !names[c.link] ||
			c.address.Zone() != "" || c.address.Is4In6() || c.address.IsUnspecified() || c.address.IsMulticast() {
			return w, invalid("neighbor %.60q of interface %.20q", n.GetAddress(), c.link)
		}
		w.neighbors = append(w.neighbors, c)
	}
	// A gateway must be reachable before a route by it can be: routes of links
	// come first, then the narrow ones, the default last.
	slices.SortStableFunc(w.routes, func(a, b route) int {
		return cmp.Or(
			cmp.Compare(boolInt(a.gateway.IsValid()), boolInt(b.gateway.IsValid())),
			cmp.Compare(b.destination.Bits(), a.destination.Bits()),
		)
	})
	return w, nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// automatic reports whether the kernel makes the route by itself.
func (w wanted) automatic(r route) bool {
	if r.gateway.IsValid() {
		return false
	}
	if a := r.destination.Addr(); a.Is6() && (a.IsLinkLocalUnicast() || a.IsMulticast()) {
		return true
	}
	for _, l := range w.links {
		if l.name == r.link && !l.routeless && slices.ContainsFunc(l.addresses, func(p netip.Prefix) bool { return p.Masked() == r.destination }) {
			return true
		}
	}
	return false
}

func checkLink(i *agent.Interface) (link, error) {
	l := link{name: i.GetName(), mtu: int(i.GetMtu()), routeless: i.GetNoPrefixRoutes()}
	if !validName(l.name) {
		return l, invalid("interface name %.20q", l.name)
	}
	var err error
	if l.mac, err = checkMAC(i.GetMac()); err != nil {
		return l, err
	}
	if l.device, err = checkMAC(i.GetDeviceMac()); err != nil {
		return l, err
	}
	if i.GetMtu() != 0 && (i.GetMtu() < 68 || i.GetMtu() > 65535) {
		return l, invalid("an MTU of %d", i.GetMtu())
	}
	if l.settings, err = checkSettings(i); err != nil {
		return l, err
	}
	if len(i.GetAddresses()) > maxAddresses {
		return l, invalid("more than %d addresses of %s", maxAddresses, l.name)
	}
	for _, a := range i.GetAddresses() {
		p, err := netip.ParsePrefix(a)
		if err != nil || p.Addr().IsUnspecified() || p.Addr().IsMulticast() || p.Addr().Is4In6() {
			return l, invalid("address %.60q", a)
		}
		l.addresses = append(l.addresses, p)
	}
	return l, nil
}

// validName reports whether name can be an interface's: what the kernel takes,
// less what would be odd in a path.
func validName(name string) bool {
	if name == "" || len(name) >= unix.IFNAMSIZ || name == "lo" || name == "." || name == ".." {
		return false
	}
	return !slices.ContainsFunc([]byte(name), func(c byte) bool {
		return c <= ' ' || c >= 0x7f || c == '/' || c == ':' || c == '%'
	})
}

func checkMAC(raw []byte) (mac, error) {
	if len(raw) != len(mac{}) {
		return mac{}, invalid("a MAC address of %d bytes", len(raw))
	}
	m := mac(raw)
	if m == (mac{}) || m[0]&1 != 0 {
		return m, invalid("MAC address %s is not one of a device", m.hardware())
	}
	return m, nil
}

func checkRoute(r *agent.Route) (route, error) {
	c := route{link: r.GetInterface(), metric: int(r.GetMetric()), onlink: r.GetFlags()&unix.RTNH_F_ONLINK != 0}
	any4, any6 := netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	switch {
	case r.GetDestination() != "":
		p, err := netip.ParsePrefix(r.GetDestination())
		if err != nil || p.Addr().Is4In6() {
			return c, invalid("route to %.60q", r.GetDestination())
		}
		c.destination = p.Masked()
	case r.GetIpv6():
		c.destination = any6
	default:
		c.destination = any4
	}
	var err error
	if c.gateway, err = checkAddress(r.GetGateway(), r.GetIpv6()); err != nil {
		return c, err
	}
	if c.source, err = checkAddress(r.GetSource(), r.GetIpv6()); err != nil {
		return c, err
	}
	if c.destination.Addr().Is6() != r.GetIpv6() {
		return c, invalid("route to %s is not of the family it says", c.destination)
	}
	switch r.GetScope() {
	case unix.RT_SCOPE_UNIVERSE, unix.RT_SCOPE_SITE, unix.RT_SCOPE_LINK, unix.RT_SCOPE_HOST:
		c.scope = uint8(r.GetScope())
	default:
		return c, invalid("route scope %d", r.GetScope())
	}
	if r.GetMetric() > 1<<31-1 {
		return c, invalid("route metric %d", r.GetMetric())
	}
	return c, nil
}

// checkAddress returns the zero address for an empty text.
func checkAddress(text string, six bool) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" || a.Is4In6() || a.Is6() != six || a.IsUnspecified() || a.IsMulticast() {
		return netip.Addr{}, invalid("address %.60q of a route", text)
	}
	return a, nil
}

// netlink returns the route by the link of that index.
func (r route) netlink(index int) *netlink.Route {
	n := &netlink.Route{
		LinkIndex: index,
		Dst:       ipNet(r.destination),
		Scope:     netlink.Scope(r.scope),
		Priority:  r.metric,
		Table:     unix.RT_TABLE_MAIN,
	}
	if r.gateway.IsValid() {
		n.Gw = r.gateway.AsSlice()
	}
	if r.source.IsValid() {
		n.Src = r.source.AsSlice()
	}
	if r.onlink {
		n.Flags = unix.RTNH_F_ONLINK
	}
	return n
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
