package network

import (
	"net/netip"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"golang.org/x/sys/unix"
)

// gatewayState is what the guest shall configure where a gateway decides: its
// interfaces look as the namespace's do, but nobody is on its link other than
// the gateway, of which it knows the address. There is no IPv6.
func (v view) gatewayState(c crossing) (*agent.NetworkState, error) {
	s := &agent.NetworkState{}
	hasDefault := false
	for _, p := range c.ports {
		if len(p.addrs) == 0 {
			continue
		}
		routes, err := v.routesOf(p)
		if err != nil {
			return nil, err
		}
		via := tapAddress.String()
		for _, r := range routes {
			if r.Gateway != "" {
				via = r.Gateway
				break
			}
		}
		i := &agent.Interface{
			Name: p.link.name, Mac: p.link.mac, DeviceMac: p.tap.mac, Mtu: uint32(p.link.mtu), NoPrefixRoutes: true,
			Settings: p.link.settings,
		}
		known := map[string]bool{}
		neighbor := func(address string) {
			if known[address] {
				return
			}
			known[address] = true
			s.Routes = append(s.Routes, &agent.Route{
				Interface: p.link.name, Destination: netip.PrefixFrom(netip.MustParseAddr(address), 32).String(), Scope: unix.RT_SCOPE_LINK,
			})
			s.Neighbors = append(s.Neighbors, &agent.Neighbor{Interface: p.link.name, Address: address, Mac: p.tapMAC})
		}
		neighbor(via)
		for _, a := range v.addrs {
			prefix, ok := prefixOf(a.IPNet)
			if !ok || a.LinkIndex != p.link.index || !prefix.Addr().Is4() {
				continue
			}
			i.Addresses = append(i.Addresses, prefix.String())
			if prefix.Bits() < 32 {
				s.Routes = append(s.Routes, &agent.Route{Interface: p.link.name, Destination: prefix.Masked().String(), Gateway: via})
			}
		}
		for _, r := range routes {
			if r.Gateway == "" {
				r.Gateway, r.Scope = via, unix.RT_SCOPE_UNIVERSE
			}
			neighbor(r.Gateway)
			hasDefault = hasDefault || r.Destination == ""
			s.Routes = append(s.Routes, r)
		}
		s.Interfaces = append(s.Interfaces, i)
	}
	if !hasDefault && len(s.Interfaces) > 0 {
		// Where a name stands for an address, that is in none of the networks.
		first := s.Neighbors[0]
		s.Routes = append(s.Routes, &agent.Route{Interface: first.Interface, Gateway: first.Address})
	}
	sortRoutes(s.Routes)
	return s, nil
}

// routesOf are the routes of IPv4 by an interface that the kernel does not make
// itself.
func (v view) routesOf(p port) ([]*agent.Route, error) {
	var all []*agent.Route
	for _, r := range v.routes {
		routes, err := v.route(r, map[int]string{p.link.index: p.link.name})
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			if !r.Ipv6 {
				all = append(all, r)
			}
		}
	}
	return all, nil
}
