package network

import (
	"bytes"
	"net/netip"
)

// resolver is where Docker's resolver answers in a namespace of a
// user-defined network. The guest cannot reach it: it is a loopback address.
var resolver = netip.AddrFrom4([4]byte{127, 0, 0, 11})

// maxResolvConf bounds what is read of a resolv.conf. The C library looks at
// three name servers.
const maxResolvConf = 64 << 10

// ResolvConfNeedsRelay reports whether a resolv.conf names Docker's resolver,
// so that the guest must answer in its place (RelayDNS).
func ResolvConfNeedsRelay(content []byte) bool {
	for line := range bytes.Lines(content[:min(len(content), maxResolvConf)]) {
		// A comment's first field is no keyword.
		fields := bytes.Fields(line)
		if len(fields) < 2 || string(fields[0]) != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(string(fields[1])); err == nil && addr == resolver {
			return true
		}
	}
	return false
}
