package pattern

import (
	"net/netip"
	"slices"
)

// Prefixes returns the addresses that the pattern stands for; nil where it is one
// of names. ** is every name and every address.
func (e Endpoint) Prefixes() []netip.Prefix {
	switch e.Host {
	case Private:
		return slices.Clone(privatePrefixes)
	case anyDepth:
		return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	}
	if p, ok := prefix(e.Host); ok {
		return []netip.Prefix{p}
	}
	return nil
}

// IsPublic reports whether an address is one of the public Internet's: not one
// that [Private] stands for.
func IsPublic(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsValid() && !slices.ContainsFunc(privatePrefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// IsName reports whether s is a host name, in the spelling that patterns are
// compared with: in lower case, without a dot at its end.
func IsName(s string) bool {
	e, err := ParseEndpoint(s)
	return err == nil && e.Port == 0 && e.Host == s && !e.IsWild() && e.Prefixes() == nil
}
