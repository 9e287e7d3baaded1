package pattern

import (
	"net/netip"
	"testing"
)

func TestPrefixes(t *testing.T) {
	for host, want := range map[string]int{
		"example.com": 0, "*.example.com": 0, "10.0.0.0/8": 1, "10.0.0.1:80": 1, "fd00::/8": 1, "private": len(privatePrefixes), "**": 2,
	} {
		e, err := ParseEndpoint(host)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.Prefixes(); len(got) != want {
			t.Errorf("%s: %v", host, got)
		}
	}
}

func TestIsPublic(t *testing.T) {
	for a, want := range map[string]bool{
		"203.0.113.1": true, "2001:db8::1": true, "::ffff:203.0.113.1": true,
		"10.0.0.1": false, "::ffff:10.0.0.1": false, "127.0.0.1": false, "169.254.169.254": false, "100.64.0.1": false, "fd00::1": false, "::1": false,
	} {
		if got := IsPublic(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: %v", a, got)
		}
	}
	if IsPublic(netip.Addr{}) {
		t.Error("no address is public")
	}
}

func TestIsName(t *testing.T) {
	for s, want := range map[string]bool{
		"db": true, "a.example.com": true, "_dmarc.example.com": true, "2.0.17.172.in-addr.arpa": true,
		"": false, "DB": false, "a.": false, "a b": false, "10.0.0.1": false, "127.1": false, "0x7f.1": false, "*.a": false, "**": false, "private": false,
		"a:80": false, "::1": false, "10.0.0.0/8": false, "-a": false,
	} {
		if got := IsName(s); got != want {
			t.Errorf("%q: %v", s, got)
		}
	}
}
