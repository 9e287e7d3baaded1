package egress

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/annotations/pattern"
	"github.com/nanoclaw/nanoclaw/shim/network"
)

func endpoints(texts ...string) []annotations.EndpointRule {
	var all []annotations.EndpointRule
	for _, s := range texts {
		e, err := pattern.ParseEndpoint(s)
		if err != nil {
			panic(err)
		}
		all = append(all, annotations.EndpointRule{Endpoint: e, Origin: annotations.Origin{Layer: annotations.LayerCeiling}})
	}
	return all
}

// only are rules by which nothing but these endpoints is reached.
func only(texts ...string) *annotations.Network {
	return &annotations.Network{Mode: annotations.NetworkFiltered, Allow: []annotations.EndpointList{{
		Endpoints: endpoints(texts...), Origin: annotations.Origin{Layer: annotations.LayerAgent},
	}}}
}

// but are rules by which everything but these endpoints is reached.
func but(texts ...string) *annotations.Network {
	return &annotations.Network{Mode: annotations.NetworkOpen, Deny: endpoints(texts...)}
}

// ownNetwork is where the judges of tests have their container.
func ownNetwork(j *judge) *judge {
	own := []netip.Prefix{netip.MustParsePrefix("172.30.0.2/16")}
	j.setOwn(own, own)
	onHost(j, "172.30.0.1", "10.0.0.1")
	return j
}

// onHost says which addresses the host has.
func onHost(j *judge, all ...string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.host = func() (found []netip.Addr) {
		for _, a := range all {
			found = append(found, netip.MustParseAddr(a))
		}
		return found
	}
}

func TestNames(t *testing.T) {
	asked := only("**")
	asked.Ask = endpoints("push.example.com")
	for _, c := range []struct {
		rules *annotations.Network
		name  string
		want  answer
	}{
		{only("db:80"), "db", standIn},
		{only("db:80"), "other", hidden},
		{only("*.example.com"), "a.example.com", standIn},
		{only("*.example.com"), "a.b.example.com", hidden},
		{only("**"), "anything.example.org", standIn},
		{only("10.0.0.0/8"), "db", hidden},
		{only(), "db", hidden},
		{&annotations.Network{Mode: annotations.NetworkFiltered}, "db", hidden},
		{asked, "push.example.com", hidden},
		{but("evil.example.com"), "evil.example.com", hidden},
		{but("evil.example.com"), "good.example.com", plain},
		{but("mail.example.com:25"), "mail.example.com", standIn},
		{but("private"), "db", plain},
		{but("**.example.com"), "bad name.example.com", hidden},
		{but("**.example.com"), "Evil.example.com", hidden},
		{but("private"), "1.2.3.4", hidden},
		{but("private"), "", hidden},
		{but("private"), "2.0.30.172.in-addr.arpa", plain},
	} {
		got, v := newJudge(c.rules).name(c.name)
		if got != c.want {
			t.Errorf("%q under %+v: %d, want %d", c.name, c.rules, got, c.want)
		}
		if got == hidden && (v.Decision != annotations.DecisionDeny || v.Rule == "") {
			t.Errorf("%q is hidden by %+v", c.name, v)
		}
	}
}

func TestLiterals(t *testing.T) {
	for _, c := range []struct {
		rules *annotations.Network
		to    string
		want  bool
	}{
		{only("db"), "172.30.0.3:80", false},
		{only("10.0.0.0/8:443"), "10.1.1.1:443", true},
		{only("10.0.0.0/8:443"), "10.1.1.1:80", false},
		{only("**"), "203.0.113.9:80", true},
		{only("**"), "127.0.0.11:53", false},
		{only("**", "127.0.0.0/8"), "127.0.0.1:80", false},
		{only("**"), "0.0.0.0:80", false},
		{only("**"), "224.0.0.1:80", false},
		{only("**"), "255.255.255.255:80", false},
		{only("**"), "172.30.0.2:80", false},
		{only("**"), "169.254.77.1:80", false},
		{only("**"), "198.18.0.1:80", false},
		{only("**"), "[2001:db8::1]:80", false},
		{only("**"), "[::ffff:127.0.0.1]:80", false},
		{only("**"), "[::ffff:203.0.113.9]:80", true},
		{only("169.254.169.254:80"), "169.254.169.254:80", true},
		{but("169.254.169.254"), "169.254.169.254:80", false},
		{but("169.254.169.254"), "203.0.113.9:80", true},
		{but("private"), "203.0.113.9:80", true},
		{but("private"), "10.0.0.1:80", false},
		{but("private"), "169.254.169.254:80", false},
		{but("10.0.0.1:25"), "10.0.0.1:80", true},
		{but("10.0.0.1:25"), "10.0.0.1:25", false},
	} {
		to := netip.MustParseAddrPort(c.to)
		v := ownNetwork(newJudge(c.rules)).literal(to.Addr(), to.Port())
		if (v.Decision == annotations.DecisionAllow) != c.want {
			t.Errorf("%s: %+v", c.to, v)
		}
	}
}

// TestResolved is about names whose owner chooses where they lead.
func TestResolved(t *testing.T) {
	denied := only("db", "*.example.com", "exact.example.com")
	denied.Deny = endpoints("172.30.0.4", "203.0.113.0/24:25")
	asked := only("db")
	asked.Ask = endpoints("172.30.0.9")
	for _, c := range []struct {
		rules  *annotations.Network
		name   string
		addr   string
		port   uint16
		want   bool
		reason string
	}{
		{only("*.example.com"), "a.example.com", "203.0.113.9", 443, true, ""},
		{only("*.example.com"), "a.example.com", "10.0.0.5", 443, false, "not on the public Internet"},
		{only("*.example.com", "10.0.0.0/8"), "a.example.com", "10.0.0.5", 443, true, ""},
		{only("*.example.com", "10.0.0.0/8:80"), "a.example.com", "10.0.0.5", 443, false, "not on the public Internet"},
		{only("**"), "a.example.com", "10.0.0.5", 443, true, ""},
		{only("**"), "a.example.com", "127.0.0.11", 53, false, "machine itself"},
		{only("**"), "a.example.com", "172.30.0.2", 53, false, "own address"},
		{only("**"), "a.example.com", "198.18.0.9", 53, false, "machine itself"},
		{only("a.example.com"), "a.example.com", "169.254.169.254", 80, false, "not on the public Internet"},
		{only("a.example.com"), "a.example.com", "192.168.1.1", 80, false, "not on the public Internet"},
		// The engine's names lead to the networks that the container is on.
		{only("db"), "db", "172.30.0.3", 5432, true, ""},
		{only("*.example.com"), "a.example.com", "172.30.0.3", 5432, false, "not on the public Internet"},
		{only("db:5432"), "db", "172.30.0.3", 5432, true, ""},
		{only("db:5432"), "db", "172.31.0.3", 5432, false, "not on the public Internet"},
		// A denied address stays denied, by whatever name.
		{denied, "db", "172.30.0.3", 80, true, ""},
		{denied, "db", "172.30.0.4", 80, false, ""},
		{denied, "exact.example.com", "203.0.113.1", 25, false, ""},
		{denied, "exact.example.com", "203.0.113.1", 26, true, ""},
		{asked, "db", "172.30.0.9", 80, false, "nobody to ask"},
		{but("private"), "a.example.com", "10.0.0.5", 80, false, ""},
		{but("169.254.169.254"), "a.example.com", "169.254.169.254", 80, false, ""},
		{but("169.254.169.254"), "a.example.com", "10.0.0.5", 80, true, ""},
		{but("169.254.169.254"), "a.example.com", "127.0.0.1", 80, false, "machine itself"},
	} {
		v := ownNetwork(newJudge(c.rules)).resolved(c.name, c.port, netip.MustParseAddr(c.addr))
		if (v.Decision == annotations.DecisionAllow) != c.want || !strings.Contains(v.Why, c.reason) {
			t.Errorf("%s -> %s:%d: %+v", c.name, c.addr, c.port, v)
		}
	}
}

// TestPeers: "private" is about the host, its network and other networks, and not
// about who is on the container's own.
func TestPeers(t *testing.T) {
	other := only("db", "nas", "db.example.com")
	other.Deny = endpoints("private")
	asked := but()
	asked.Ask = endpoints("private")
	for _, c := range []struct {
		rules *annotations.Network
		name  string
		addr  string
		want  bool
	}{
		{but("private"), "db", "172.30.0.3", true},
		{but("private:80"), "db", "172.30.0.3", true},
		{other, "db", "172.30.0.3", true},
		{asked, "db", "172.30.0.3", true},
		// The host, as it is called on that network and elsewhere, and others.
		{but("private"), "db", "172.30.0.1", false},
		{but("private"), "db", "10.0.0.1", false},
		{but("private"), "db", "10.0.0.5", false},
		{but("private"), "db", "172.31.0.3", false},
		{but("private"), "db", "169.254.169.254", false},
		{but("private"), "db", "172.30.0.2", false},
		{other, "nas", "10.0.0.5", false},
		// A name that somebody may own.
		{but("private"), "db.example.com", "172.30.0.3", false},
		{other, "db.example.com", "172.30.0.3", false},
		// Whoever means these too says so.
		{but("private", "172.16.0.0/12"), "db", "172.30.0.3", false},
		{but("private", "172.30.0.3:80"), "db", "172.30.0.3", false},
		{but("**"), "db", "172.30.0.3", false},
	} {
		if v := ownNetwork(newJudge(c.rules)).resolved(c.name, 80, netip.MustParseAddr(c.addr)); (v.Decision == annotations.DecisionAllow) != c.want {
			t.Errorf("%s -> %s under %+v: %+v", c.name, c.addr, c.rules, v)
		}
	}
	db, peer := "db", netip.MustParseAddr("172.30.0.3")
	j := ownNetwork(newJudge(but("private")))
	if v := j.literal(peer, 80); v.Decision != annotations.DecisionDeny {
		t.Errorf("by its address: %+v", v)
	}
	for name, change := range map[string]func(j *judge){
		"a network of the host's":     func(j *judge) { j.setOwn(j.own, nil) },
		"a host of unknown addresses": func(j *judge) { onHost(j) },
	} {
		j := ownNetwork(newJudge(but("private")))
		change(j)
		if v := j.resolved(db, 80, peer); v.Decision != annotations.DecisionDeny {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

func TestHostAddresses(t *testing.T) {
	if !slices.Contains(hostAddresses(), netip.MustParseAddr("127.0.0.1")) {
		t.Errorf("this host has %v", hostAddresses())
	}
}

func TestAskIsADenial(t *testing.T) {
	rules := but()
	rules.Ask = endpoints("push.example.com:22", "10.0.0.7")
	j := newJudge(rules)
	for _, v := range []annotations.Verdict{j.named("push.example.com", 22), j.literal(netip.MustParseAddr("10.0.0.7"), 1)} {
		if v.Decision != annotations.DecisionDeny || !strings.HasPrefix(v.Rule, "network.ask ") || !strings.Contains(v.Why, "nobody to ask") {
			t.Errorf("%+v", v)
		}
	}
}

func TestForwarded(t *testing.T) {
	if forward, _ := newJudge(only("**")).forwarded(); forward {
		t.Error("datagrams pass where only what is listed does")
	}
	forward, denied := newJudge(but("private", "203.0.113.9:53", "evil.example.com")).forwarded()
	if !forward {
		t.Fatal("datagrams do not pass where all is open")
	}
	has := func(d network.Destination) bool {
		for _, o := range denied {
			if o == d {
				return true
			}
		}
		return false
	}
	for _, want := range []network.Destination{
		{Prefix: Pool}, {Prefix: netip.MustParsePrefix("10.0.0.0/8")}, {Prefix: netip.MustParsePrefix("203.0.113.9/32"), Port: 53},
	} {
		if !has(want) {
			t.Errorf("%v is not denied: %v", want, denied)
		}
	}
	all := &annotations.Network{Mode: annotations.NetworkOpen, Deny: endpoints("**")}
	if _, denied := newJudge(all).forwarded(); len(denied) != 2 || denied[1].Prefix.Bits() != 0 {
		t.Errorf("** denies %v", denied)
	}
}
