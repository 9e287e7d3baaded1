package network

import (
	"bytes"
	"io"
	"net/netip"
	"os"
)

// resolver is where Docker's resolver answers in a namespace of a
// user-defined network. The guest cannot reach it: it is a loopback address.
var resolver = netip.AddrFrom4([4]byte{127, 0, 0, 11})

const (
	// maxResolvConf bounds what is read of a resolv.conf, which a container may
	// write to.
	maxResolvConf = 64 << 10
	// maxServers is how many name servers the C library looks at.
	maxServers = 3
)

// ReadResolvConf reads a resolv.conf as far as it is looked at.
func ReadResolvConf(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxResolvConf))
}

// NameServers returns the first name servers that a resolv.conf names.
func NameServers(content []byte) []netip.Addr {
	var all []netip.Addr
	for line := range bytes.Lines(content[:min(len(content), maxResolvConf)]) {
		// A comment's first field is no keyword.
		fields := bytes.Fields(line)
		if len(fields) < 2 || string(fields[0]) != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(string(fields[1])); err == nil {
			all = append(all, addr)
		}
		if len(all) == maxServers {
			break
		}
	}
	return all
}

// ResolvConfNeedsRelay reports whether a resolv.conf names Docker's resolver,
// so that the guest must answer in its place (RelayDNS).
func ResolvConfNeedsRelay(content []byte) bool {
	for _, addr := range NameServers(content) {
		if IsEngineResolver(addr) {
			return true
		}
	}
	return false
}

// IsEngineResolver reports whether an address is that of the engine's resolver in
// a container's namespace.
func IsEngineResolver(a netip.Addr) bool { return a == resolver }
