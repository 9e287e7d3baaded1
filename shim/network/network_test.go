package network

import (
	"bytes"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
)

// peers are where outer answers: the gateway, and the world behind it.
var peers = []string{"172.30.0.1:7000", "[fd30::1]:7000", "203.0.113.9:7000", "[2001:db8::9]:7000"}

// dualStack connects the network that most tests use.
func (tn *testnet) dualStack() {
	tn.t.Helper()
	tn.connect("eth0", "veth0", 1500,
		[]string{"172.30.0.2/16", "fd30::2/64"},
		[]string{"172.30.0.1/16", "fd30::1/64", "203.0.113.9/32", "2001:db8::9/128"})
	tn.route(tn.inner, "", "172.30.0.1", "eth0")
	tn.route(tn.inner, "::/0", "fd30::1", "eth0")
}

func TestTrafficBothWays(t *testing.T) {
	tn := newTestnet(t)
	tn.dualStack()
	state := tn.wire()
	if len(state.Interfaces) != 1 || state.Interfaces[0].Name != "eth0" {
		t.Fatalf("interfaces: %v", state.Interfaces)
	}
	echo(t, tn.guest, "172.30.0.2:7000", "[fd30::2]:7000")
	echo(t, tn.outer, peers...)

	for _, to := range peers {
		tn.talks("guest to peer", tn.guest, "tcp", to, 4<<20)
		tn.talks("guest to peer", tn.guest, "udp", to, 1200)
	}
	for _, to := range []string{"172.30.0.2:7000", "[fd30::2]:7000"} {
		tn.talks("peer to guest", tn.outer, "tcp", to, 4<<20)
		tn.talks("peer to guest", tn.outer, "udp", to, 1200)
	}
	// The namespace's own stack has the same addresses; it must not have
	// answered anything.
	for _, c := range [][2]string{{"Tcp", "OutRsts"}, {"Icmp", "OutDestUnreachs"}} {
		if n := snmp(t, tn.inner, c[0], c[1]); n != 0 {
			t.Errorf("the namespace's own stack sent %d %s", n, c[1])
		}
	}
}

// TestOwnConnections is about what Docker's resolver does: it asks from inside
// the namespace, from the address that the guest has too.
func TestOwnConnections(t *testing.T) {
	tn := newTestnet(t)
	tn.dualStack()
	tn.wire()
	echo(t, tn.outer, peers...)
	for _, to := range peers {
		tn.talks("namespace to peer", tn.inner, "udp", to, 1200)
		tn.talks("namespace to peer", tn.inner, "tcp", to, 1<<20)
	}

	// Without the rules that look the connections up, the same must fail: or
	// this test would prove nothing.
	tn.must(transact(tn.inner, func(c *nftables.Conn) error {
		table := newTable()
		chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
		if err != nil {
			return err
		}
		for _, chain := range chains {
			rules, err := c.GetRules(table, chain)
			if err != nil {
				return err
			}
			for _, r := range rules {
				if slices.ContainsFunc(r.Exprs, func(e expr.Any) bool { _, ok := e.(*expr.Lookup); return ok }) {
					if err := c.DelRule(r); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}))
	for _, to := range peers {
		if err := talk(tn.inner, "udp", to, 100, 300*time.Millisecond); err == nil {
			t.Errorf("%s was reached without the exception for own connections", to)
		}
	}
}

func TestNeighboursOfBoth(t *testing.T) {
	tn := newTestnet(t)
	tn.dualStack()
	tn.wire()
	echo(t, tn.outer, ":7000")
	for range 2 {
		for _, ns := range []*Namespace{tn.inner, tn.guest} {
			tn.must(ns.Do(func() error {
				neighbours, err := netlink.NeighList(0, netlink.FAMILY_ALL)
				if err != nil {
					return err
				}
				for _, n := range neighbours {
					// Only what was learnt; the rest is not worth an error.
					_ = netlink.NeighDel(&n)
				}
				return nil
			}))
		}
		tn.talks("namespace", tn.inner, "udp", "172.30.0.1:7000", 64)
		tn.talks("guest", tn.guest, "udp", "172.30.0.1:7000", 64)
		tn.talks("guest", tn.guest, "udp", "[fd30::1]:7000", 64)
		tn.talks("namespace", tn.inner, "udp", "[fd30::1]:7000", 64)
	}
}

func TestGuestDoesNotReachTheNamespace(t *testing.T) {
	tn := newTestnet(t)
	tn.dualStack()
	tn.wire()
	// A service of the namespace's own, as Docker's resolver is one.
	echo(t, tn.inner, ":7001")
	for _, to := range []string{"172.30.0.2:7001", "127.0.0.11:7001", "[fd30::2]:7001"} {
		if err := talk(tn.guest, "tcp", to, 8, 300*time.Millisecond); err == nil {
			t.Errorf("the guest reached %s in the namespace", to)
		}
	}
	// And nobody reaches it from outside: what arrives is the guest's.
	if err := talk(tn.outer, "tcp", "172.30.0.2:7001", 8, 300*time.Millisecond); err == nil {
		t.Error("the peer reached a service of the namespace")
	}
}

func TestJumboFrames(t *testing.T) {
	tn := newTestnet(t)
	tn.connect("eth0", "veth0", 9000, []string{"172.30.0.2/16"}, []string{"172.30.0.1/16"})
	state := tn.wire()
	if state.Interfaces[0].Mtu != 9000 {
		t.Fatalf("MTU %d", state.Interfaces[0].Mtu)
	}
	echo(t, tn.outer, ":7000")
	tn.talks("one datagram in one frame", tn.guest, "udp", "172.30.0.1:7000", 8900)
	if n := snmp(t, tn.guest, "Ip", "FragCreates"); n != 0 {
		t.Errorf("the guest made %d fragments", n)
	}
}

func TestNone(t *testing.T) {
	tn := newTestnet(t)
	begun := time.Now()
	state, err := tn.net.Wire(t.Context())
	if err != nil || state != nil {
		t.Fatalf("state %v, error %v", state, err)
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("took %v", took)
	}
	if tables := tablesOf(t, tn.inner); len(tables) != 0 {
		t.Errorf("tables: %v", tables)
	}
}

func TestRelayIsAskedForAnew(t *testing.T) {
	requireRoot(t)
	ns := newNamespace(t)
	relay := false
	n := New(ns, func() bool { return relay })
	if state, err := n.Wire(t.Context()); err != nil || state != nil {
		t.Fatalf("state %v, error %v", state, err)
	}
	relay = true
	state, err := n.Wire(t.Context())
	if err != nil || !state.GetRelayDns() {
		t.Fatalf("state %v, error %v", state, err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSeveralNetworks(t *testing.T) {
	tn := newTestnet(t)
	tn.connect("eth0", "veth0", 1500, []string{"172.30.0.2/16"}, []string{"172.30.0.1/16"})
	tn.connect("eth1", "veth1", 1400, []string{"172.31.0.2/16"}, []string{"172.31.0.1/16"})
	tn.route(tn.inner, "", "172.31.0.1", "eth1")
	state := tn.wire()
	if len(state.Interfaces) != 2 {
		t.Fatalf("interfaces: %v", state.Interfaces)
	}
	if bytes.Equal(state.Interfaces[0].DeviceMac, state.Interfaces[1].DeviceMac) {
		t.Error("both interfaces have one device")
	}
	echo(t, tn.outer, ":7000")
	tn.talks("first network", tn.guest, "tcp", "172.30.0.1:7000", 1<<20)
	tn.talks("second network", tn.guest, "tcp", "172.31.0.1:7000", 1<<20)
}

func TestTooFewNICsBeforeBoot(t *testing.T) {
	tn := newTestnet(t)
	tn.dualStack()
	n := New(tn.inner, nil)
	if _, err := n.Wire(t.Context()); err == nil {
		t.Error("wired an interface without a NIC")
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if _, err := n.NewNIC(); err == nil {
		t.Error("made a NIC after Close")
	}
	if _, err := n.Wire(t.Context()); err == nil {
		t.Error("wired after Close")
	}
}

func TestTooManyInterfaces(t *testing.T) {
	tn := newTestnet(t)
	for range maxInterfaces - 1 {
		if _, err := tn.net.NewNIC(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tn.net.NewNIC(); err == nil {
		t.Error("no bound on NICs")
	}
}

func tablesOf(t *testing.T, ns *Namespace) []string {
	t.Helper()
	c, err := connect(ns)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := c.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, table := range tables {
		names = append(names, table.Name)
	}
	return names
}

func TestForeignTablesSurvive(t *testing.T) {
	tn := newTestnet(t)
	tn.dualStack()
	// What Docker puts there for its resolver, and another's table on our
	// device and of our name, in another family.
	tn.must(transact(tn.inner, func(c *nftables.Conn) error {
		for _, table := range []*nftables.Table{
			{Name: "nat", Family: nftables.TableFamilyIPv4},
			{Name: tableName, Family: nftables.TableFamilyINet},
		} {
			c.AddTable(table)
			chain := c.AddChain(&nftables.Chain{Name: "DOCKER_OUTPUT", Table: table})
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: verdict(expr.VerdictAccept)})
		}
		other := &nftables.Table{Name: "other", Family: nftables.TableFamilyNetdev}
		c.AddTable(other)
		addChain(c, other, "in", nftables.ChainHookIngress, "eth0", 0, nftables.ChainPolicyAccept)
		return nil
	}))
	rules := func() int {
		c, err := connect(tn.inner)
		tn.must(err)
		n := 0
		for _, table := range []*nftables.Table{
			{Name: "nat", Family: nftables.TableFamilyIPv4},
			{Name: tableName, Family: nftables.TableFamilyINet},
		} {
			got, err := c.GetRules(table, &nftables.Chain{Name: "DOCKER_OUTPUT"})
			tn.must(err)
			n += len(got)
		}
		return n
	}
	tn.wire()
	if got := tablesOf(t, tn.inner); len(got) != 4 || rules() != 2 {
		t.Errorf("after Wire: %v", got)
	}
	tn.net.unhooked.Store(true)
	tn.wire()
	if got := tablesOf(t, tn.inner); len(got) != 4 || rules() != 2 {
		t.Errorf("after a second Wire: %v", got)
	}
	tn.must(tn.net.Close())
	if got := tablesOf(t, tn.inner); len(got) != 3 || rules() != 2 {
		t.Errorf("after Close: %v", got)
	}
}

// ownConnections counts what the rules remember of the namespace's own.
func (tn *testnet) ownConnections() int {
	tn.t.Helper()
	c, err := connect(tn.inner)
	tn.must(err)
	set, err := c.GetSetByName(newTable(), "own")
	tn.must(err)
	elements, err := c.GetSetElements(set)
	tn.must(err)
	return len(elements)
}

func TestRewireWithoutChangeKeepsTheRules(t *testing.T) {
	tn := newTestnet(t)
	tn.dualStack()
	tn.wire()
	echo(t, tn.outer, "172.30.0.1:7000")
	tn.talks("namespace", tn.inner, "udp", "172.30.0.1:7000", 100)
	if n := tn.ownConnections(); n != 1 {
		t.Fatalf("%d connections are remembered, want 1", n)
	}
	tn.wire()
	if n := tn.ownConnections(); n != 1 {
		t.Errorf("%d connections are remembered after a second Wire", n)
	}
	tn.talks("guest", tn.guest, "udp", "172.30.0.1:7000", 100)
	if n := tn.ownConnections(); n != 1 {
		t.Errorf("%d connections are remembered: the guest's count as the namespace's", n)
	}
}

func TestTapVanishesWithTheVM(t *testing.T) {
	requireRoot(t)
	ns := newNamespace(t)
	n := New(ns, nil)
	nic, err := n.NewNIC()
	if err != nil {
		t.Fatal(err)
	}
	if mac := nic.MAC; len(mac) != 6 || mac[0]&3 != 2 {
		t.Errorf("%s is not a locally administered unicast address", mac)
	}
	count := func() (links int) {
		if err := ns.Do(func() error {
			l, err := net.Interfaces()
			links = len(l)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return links
	}
	if n := count(); n != 2 {
		t.Fatalf("%d links, want lo and the tap", n)
	}
	if err := n.Booted(nil); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 1 {
		t.Errorf("%d links are left", n)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

func TestInterfaceWithoutEthernetIsRefused(t *testing.T) {
	tn := newTestnet(t)
	err := tn.inner.Do(func() error {
		tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun7"}, Mode: netlink.TUNTAP_MODE_TUN}
		if err := netlink.LinkAdd(tun); err != nil {
			return err
		}
		return netlink.LinkSetUp(tun)
	})
	tn.must(err)
	if _, err := tn.net.Wire(t.Context()); err == nil {
		t.Error("an interface was left out in silence")
	}
}

func TestCheck(t *testing.T) {
	requireRoot(t)
	if err := Check(); err != nil {
		t.Error(err)
	}
}
