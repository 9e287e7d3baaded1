package network

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"slices"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// state is what the guest shall configure so that its interfaces look as the
// bound ones do here.
func (v view) state(bound []binding) (*agent.NetworkState, error) {
	s := &agent.NetworkState{}
	names := map[int]string{}
	for _, b := range bound {
		names[b.link.index] = b.link.name
		s.Interfaces = append(s.Interfaces, &agent.Interface{
			Name:      b.link.name,
			Mac:       b.link.mac,
			DeviceMac: b.tap.mac,
			Mtu:       uint32(b.link.mtu),
			Addresses: v.addresses(b.link),
			Settings:  b.link.settings,
		})
	}
	for _, r := range v.routes {
		routes, err := v.route(r, names)
		if err != nil {
			return nil, err
		}
		s.Routes = append(s.Routes, routes...)
	}
	sortRoutes(s.Routes)
	return s, nil
}

// sortRoutes puts routes in an order in which they can be added: a gateway must
// be reachable before a route by it.
func sortRoutes(routes []*agent.Route) {
	slices.SortStableFunc(routes, func(a, b *agent.Route) int {
		return cmp.Compare(min(len(a.Gateway), 1), min(len(b.Gateway), 1))
	})
}

func (v view) addresses(l link) []string {
	var out []string
	for _, a := range v.addrs {
		if a.LinkIndex != l.index || a.IPNet == nil {
			continue
		}
		// Temporary addresses are made and thrown away by the kernel, and the
		// link-local one follows from the MAC: the guest's kernel has the same.
		if a.Flags&unix.IFA_F_TEMPORARY != 0 && a.IP.To4() == nil || a.IP.Equal(linkLocal(l.mac)) {
			continue
		}
		out = append(out, a.IPNet.String())
	}
	return out
}

// linkLocal is the address that IPv6 makes of a MAC (RFC 4291, appendix A).
func linkLocal(mac net.HardwareAddr) net.IP {
	if len(mac) != 6 {
		return nil
	}
	return net.IP{
		0xfe, 0x80, 0, 0, 0, 0, 0, 0,
		mac[0] ^ 0x02, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5],
	}
}

// route returns r as the guest shall have it: nothing for what the guest's
// kernel makes itself or what belongs to no bound interface. Of a route with
// several next hops the further ones become spares, with a higher metric.
func (v view) route(r netlink.Route, names map[int]string) ([]*agent.Route, error) {
	if r.Type != unix.RTN_UNICAST || v.kernelMade(r) {
		return nil, nil
	}
	hops := []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw, Via: r.Via, Flags: r.Flags}}
	if len(r.MultiPath) > 0 {
		hops = r.MultiPath
	}
	var out []*agent.Route
	for i, hop := range hops {
		name, ok := names[hop.LinkIndex]
		if !ok {
			continue
		}
		if hop.Via != nil || r.Encap != nil {
			return nil, fmt.Errorf("the route %s has a next hop of another address family or an encapsulation, which is not supported", r)
		}
		route := &agent.Route{
			Interface: name,
			Scope:     uint32(r.Scope),
			Flags:     uint32(hop.Flags & unix.RTNH_F_ONLINK),
			Ipv6:      r.Family == netlink.FAMILY_V6,
			Metric:    uint32(r.Priority + i),
		}
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones > 0 || !r.Dst.IP.IsUnspecified() {
				route.Destination = r.Dst.String()
			}
		}
		if hop.Gw != nil {
			route.Gateway = hop.Gw.String()
		}
		if r.Src != nil {
			route.Source = r.Src.String()
		}
		out = append(out, route)
	}
	return out, nil
}

// kernelMade reports whether r is what any kernel makes of an address or of a
// link that is up.
func (v view) kernelMade(r netlink.Route) bool {
	if r.Protocol != unix.RTPROT_KERNEL || r.Dst == nil {
		return false
	}
	if r.Family == netlink.FAMILY_V6 && (r.Dst.IP.IsLinkLocalUnicast() || r.Dst.IP.IsMulticast()) {
		return true
	}
	return slices.ContainsFunc(v.addrs, func(a netlink.Addr) bool {
		return a.IPNet != nil && a.LinkIndex == r.LinkIndex && a.IP.Mask(a.Mask).Equal(r.Dst.IP) && bytes.Equal(a.Mask, r.Dst.Mask)
	})
}
