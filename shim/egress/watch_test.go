package egress

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/shim/audit"
	"github.com/nanoclaw/nanoclaw/shim/network"
)

// audited are rules in force that deny two things, and all rules, which allow one.
func audited() (rules, all *annotations.Network) {
	rules, all = but("169.254.169.254", "evil.example.com"), only("db:80", "172.30.0.9")
	all.Deny = rules.Deny
	return rules, all
}

// told is what was recorded since the last time.
func (w *world) told(from int) []string {
	var all []string
	for _, e := range w.log.list()[from:] {
		s := string(e.Decision)
		if e.Would != "" {
			s += ", would " + string(e.Would) + " by " + e.Rule
		}
		all = append(all, s+": "+key(*e.Object))
	}
	return all
}

func key(o audit.Object) string {
	return o.Protocol + " " + netip.AddrPortFrom(netip.IPv4Unspecified(), o.Port).String()[len("0.0.0.0:"):] + " " + o.Host
}

// TestWhatWouldBeDenied: in the mode audit it passes and is on record, by the
// name that it was reached by, while what is in force is refused.
func TestWhatWouldBeDenied(t *testing.T) {
	rules, all := audited()
	w := newAudited(t, rules, all)
	for _, a := range []string{"172.30.0.3:80", "172.30.0.3:81", "169.254.169.254:80", "10.0.0.5:80", "203.0.113.9:80"} {
		w.serve(w.outer, a, a)
	}
	for _, c := range []struct {
		host, port, word string
		records          []string
	}{
		{"203.0.113.9", "80", "203.0.113.9:80", []string{"allow, would deny by network.allow: tcp 80 203.0.113.9"}},
		{"db", "80", "172.30.0.3:80", []string{"allow: tcp 80 db"}},
		// Once is enough.
		{"db", "80", "172.30.0.3:80", nil},
		{"db", "81", "172.30.0.3:81", []string{"allow, would deny by network.allow: tcp 81 db"}},
		{"db", "81", "172.30.0.3:81", nil},
		{"rebind.example.com", "80", "10.0.0.5:80", []string{
			"allow, would deny by network.allow: dns 0 rebind.example.com", "allow, would deny by network.allow: tcp 80 rebind.example.com",
		}},
	} {
		before := len(w.log.list())
		w.reaches(c.host, c.port, c.word)
		if got := w.told(before); !slices.Equal(got, c.records) {
			t.Errorf("%s:%s is recorded as %q, want %q", c.host, c.port, got, c.records)
		}
	}
	w.denied("169.254.169.254", "80", "network.deny 169.254.169.254", "")
	w.denied("evil.example.com", "80", "network.deny evil.example.com", "")

	if got, err := read(w.guest, "udp4", "203.0.113.9:80"); got != "203.0.113.9:80 172.30.0.2" || err != nil {
		t.Errorf("a datagram: %q, %v", got, err)
	}
	if got, err := read(w.guest, "udp4", "169.254.169.254:80"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a datagram to what is denied: %q, %v", got, err)
	}
	got, err := w.net.Refused()
	w.must(err)
	slices.SortFunc(got, func(a, b network.Refused) int { return a.Destination.Compare(b.Destination) })
	want := []network.Refused{
		{Destination: netip.MustParseAddrPort("169.254.169.254:80"), Protocol: unix.IPPROTO_UDP},
		{Destination: netip.MustParseAddrPort("203.0.113.9:80"), Protocol: unix.IPPROTO_UDP, Passed: true},
	}
	if !slices.Equal(got, want) {
		t.Errorf("refused or noted: %v", got)
	}
	if again, err := w.net.Refused(); err != nil || len(again) > 0 {
		t.Errorf("again %v, %v", again, err)
	}
	before := len(w.log.list())
	w.egress.refused = func() ([]network.Refused, error) { return want[1:], nil }
	w.egress.Look()
	if got := w.told(before); !slices.Equal(got, []string{"allow, would deny by network.allow: udp 80 203.0.113.9"}) {
		t.Errorf("the datagram is recorded as %q", got)
	}
}

// TestNothingWouldBeReached: the mode none, only recorded, leaves the network as
// it is.
func TestNothingWouldBeReached(t *testing.T) {
	w := newAudited(t, but(), &annotations.Network{Mode: annotations.NetworkNone})
	w.serve(w.outer, "172.30.0.3:80", "another")
	w.serve(w.guest, "172.30.0.2:8000", "the guest")
	w.reaches("db", "80", "another")
	if got, want := w.told(0), []string{"allow, would deny by network none: dns 0 db", "allow, would deny by network none: tcp 80 db"}; !slices.Equal(got, want) {
		t.Errorf("recorded %q", got)
	}
	if got, err := read(w.outer, "tcp4", "172.30.0.2:8000"); got != "the guest" || err != nil {
		t.Errorf("a published port: %q, %v", got, err)
	}
}

// TestListsInForce: where a ceiling lists what is reached, what an agent lists of
// that is recorded by the addresses that stand for names.
func TestListsInForce(t *testing.T) {
	w := newAudited(t, only("db", "www.example.com"), only("db"))
	w.serve(w.outer, "172.30.0.3:80", "another")
	w.serve(w.outer, "203.0.113.9:80", "the world")
	w.reaches("db", "80", "another")
	w.reaches("www.example.com", "80", "the world")
	want := []string{"allow: tcp 80 db", "allow, would deny by network.allow: dns 0 www.example.com", "allow, would deny by network.allow: tcp 80 www.example.com"}
	if got := w.told(0); !slices.Equal(got, want) {
		t.Errorf("recorded %q", got)
	}
	w.denied("rebind.example.com", "80", "network.allow", "")
}

func TestNoted(t *testing.T) {
	everywhere := network.Destination{Prefix: netip.MustParsePrefix("0.0.0.0/0")}
	for _, c := range []struct {
		name       string
		rules, all *annotations.Network
		want       []network.Destination
	}{
		{"enforce", but("10.0.0.0/8"), nil, nil},
		{"a list", but("10.0.0.0/8"), only("db"), []network.Destination{everywhere}},
		{"nothing", but(), &annotations.Network{Mode: annotations.NetworkNone}, []network.Destination{everywhere}},
		{"what is denied", but(), but("203.0.113.9:53"), []network.Destination{{Prefix: netip.MustParsePrefix("203.0.113.9/32"), Port: 53}}},
		{"none passes", only("db"), only("db:80"), nil},
	} {
		forward, _ := newJudge(c.rules).forwarded()
		if got := newWatch(c.rules, c.all, newReporter(nil)).noted(forward); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestNameServersThatWouldNotBeAsked(t *testing.T) {
	var log records
	rules, all := audited()
	w := newWatch(rules, all, newReporter(log.post))
	host := []netip.Addr{netip.MustParseAddr("192.0.2.53")}
	for _, a := range []string{"127.0.0.11", "192.0.2.53", "172.30.0.9", "203.0.113.53", "203.0.113.53"} {
		w.server(netip.MustParseAddr(a), host)
	}
	if got := log.list(); len(got) != 1 || key(*got[0].Object) != "dns 53 203.0.113.53" || got[0].Would != audit.Deny {
		t.Errorf("recorded %+v", got)
	}
}

// What a guest asks for and connects to does not use up the host.
func TestWatchIsBounded(t *testing.T) {
	rules, all := audited()
	n := 0
	w := newWatch(rules, all, newReporter(func(audit.Entry) { n++ }))
	a := netip.MustParseAddr("11.0.0.0")
	for range maxNames + 100 {
		a = a.Next()
		w.answer("db", []netip.Addr{a})
	}
	if len(w.answered) > maxNames {
		t.Errorf("%d answers are known", len(w.answered))
	}
	for port := range maxPassed + 100 {
		w.report.allowed(endpointOf("tcp", "db", uint16(port)))
		w.report.would(endpointOf("tcp", "db", uint16(port)), annotations.Verdict{})
	}
	if len(w.report.passed) > maxPassed || len(w.report.noted) > maxAsked || n != 2*(maxPassed+100) {
		t.Errorf("%d endpoints are known, %d noted, %d recorded", len(w.report.passed), len(w.report.noted), n)
	}
}
