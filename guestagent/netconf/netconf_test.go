package netconf

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// echo answers what it is asked with the same, in capitals.
type echo struct{}

func (echo) Serve(udp net.PacketConn, tcp net.Listener) {
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo([]byte(strings.ToUpper(string(buf[:n]))), from)
		}
	}()
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
}

func newSandbox(t *testing.T) *Sandbox {
	t.Helper()
	if os.Getenv(insideVar) == "" {
		t.Skip("needs root, for namespaces")
	}
	s, err := New("/run/netns/sandbox", echo{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

var macA, macB, macC = mac{2, 0, 0, 0, 0, 1}, mac{2, 0, 0, 0, 0, 2}, mac{2, 0, 0, 0, 0, 3}

// plug makes a card with that address appear in the VM. Its other end is up, as
// the host's is.
func plug(t *testing.T, device mac) {
	t.Helper()
	name := "p" + temporary(device)[8:]
	peer := name + "p"
	a := netlink.NewLinkAttrs()
	a.Name, a.HardwareAddr = name, device.hardware()
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: peer}); err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName(peer)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
}

func iface(name string, device, own mac, addresses ...string) *agent.Interface {
	return &agent.Interface{Name: name, DeviceMac: device[:], Mac: own[:], Mtu: 1400, Addresses: addresses}
}

func apply(t *testing.T, s *Sandbox, state *agent.NetworkState) {
	t.Helper()
	// Twice: nothing may change the second time.
	for range 2 {
		if err := s.Apply(t.Context(), state); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *Sandbox) show(t *testing.T, name string) (netlink.Link, []string) {
	t.Helper()
	l, err := s.inside.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.inside.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	var addresses []string
	for _, a := range list {
		if !a.IP.IsLinkLocalUnicast() {
			addresses = append(addresses, a.IPNet.String())
		}
	}
	slices.Sort(addresses)
	return l, addresses
}

func (s *Sandbox) routesTo(t *testing.T, destination string) []netlink.Route {
	t.Helper()
	list, err := s.inside.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(list, func(r netlink.Route) bool { return r.Dst == nil || r.Dst.String() != destination })
}

func TestLoopbackOnly(t *testing.T) {
	s := newSandbox(t)
	apply(t, s, nil)
	lo, addresses := s.show(t, "lo")
	if lo.Attrs().Flags&net.FlagUp == 0 || !slices.Contains(addresses, "127.0.0.1/8") {
		t.Errorf("loopback is %v with %v", lo.Attrs().Flags, addresses)
	}
}

func TestApply(t *testing.T) {
	s := newSandbox(t)
	plug(t, macA)
	apply(t, s, &agent.NetworkState{
		Interfaces: []*agent.Interface{iface("eth0", macA, macC, "172.17.0.2/16", "fd00::2/64")},
		Routes: []*agent.Route{
			{Interface: "eth0", Gateway: "172.17.0.1"},
			{Interface: "eth0", Ipv6: true, Gateway: "fd00::1"},
			{Interface: "eth0", Destination: "172.17.0.0/16", Source: "172.17.0.2", Scope: unix.RT_SCOPE_LINK},
			{Interface: "eth0", Destination: "10.9.0.0/24", Scope: unix.RT_SCOPE_LINK},
			{Interface: "eth0", Destination: "10.8.0.0/24", Gateway: "10.7.0.1", Flags: unix.RTNH_F_ONLINK, Metric: 5},
		},
	})
	l, addresses := s.show(t, "eth0")
	a := l.Attrs()
	if a.Flags&net.FlagUp == 0 || a.MTU != 1400 || !slices.Equal(a.HardwareAddr, macC.hardware()) {
		t.Errorf("eth0 is %+v", a)
	}
	if want := []string{"172.17.0.2/16", "fd00::2/64"}; !slices.Equal(addresses, want) {
		t.Errorf("addresses %v, want %v", addresses, want)
	}
	for _, destination := range []string{"0.0.0.0/0", "::/0", "172.17.0.0/16", "10.9.0.0/24", "10.8.0.0/24"} {
		if n := len(s.routesTo(t, destination)); n != 1 {
			t.Errorf("%d routes to %s", n, destination)
		}
	}
	if _, err := netlink.LinkByName(temporary(macA)); err == nil {
		t.Error("the card is still outside")
	}
	// What the container has made stays.
	own, err := netlink.ParseAddr("192.168.9.9/24")
	if err != nil {
		t.Fatal(err)
	}
	lo, _ := s.show(t, "lo")
	if err := s.inside.AddrAdd(lo, own); err != nil {
		t.Fatal(err)
	}
	apply(t, s, &agent.NetworkState{
		Interfaces: []*agent.Interface{iface("eth0", macA, macC, "172.18.0.2/16")},
		Routes:     []*agent.Route{{Interface: "eth0", Gateway: "172.18.0.1"}},
	})
	_, addresses = s.show(t, "eth0")
	if want := []string{"172.18.0.2/16"}; !slices.Equal(addresses, want) {
		t.Errorf("addresses %v, want %v", addresses, want)
	}
	if got := s.routesTo(t, "0.0.0.0/0"); len(got) != 1 || got[0].Gw.String() != "172.18.0.1" {
		t.Errorf("default routes %v", got)
	}
	for _, gone := range []string{"::/0", "10.9.0.0/24", "10.8.0.0/24", "172.17.0.0/16"} {
		if n := len(s.routesTo(t, gone)); n != 0 {
			t.Errorf("%d routes to %s are left", n, gone)
		}
	}
	if _, addresses := s.show(t, "lo"); !slices.Contains(addresses, "192.168.9.9/24") {
		t.Errorf("loopback has %v", addresses)
	}
}

// TestEverythingByTheGateway is what a host asks for that judges all that leaves.
func TestEverythingByTheGateway(t *testing.T) {
	s := newSandbox(t)
	plug(t, macA)
	eth0 := iface("eth0", macA, macC, "172.17.0.2/16")
	eth0.NoPrefixRoutes = true
	apply(t, s, &agent.NetworkState{
		Interfaces: []*agent.Interface{eth0},
		Routes: []*agent.Route{
			{Interface: "eth0", Destination: "172.17.0.1/32", Scope: unix.RT_SCOPE_LINK},
			{Interface: "eth0", Destination: "172.17.0.0/16", Gateway: "172.17.0.1"},
			{Interface: "eth0", Gateway: "172.17.0.1"},
		},
		Neighbors: []*agent.Neighbor{{Interface: "eth0", Address: "172.17.0.1", Mac: macB[:]}},
	})
	if got := s.routesTo(t, "172.17.0.0/16"); len(got) != 1 || got[0].Gw.String() != "172.17.0.1" {
		t.Errorf("the route to the own network is %v", got)
	}
	l, _ := s.show(t, "eth0")
	neighbors, err := s.inside.NeighList(l.Attrs().Index, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(neighbors, func(n netlink.Neigh) bool {
		return n.IP.String() == "172.17.0.1" && n.State == netlink.NUD_PERMANENT && slices.Equal(n.HardwareAddr, macB.hardware())
	}) {
		t.Errorf("neighbors %v", neighbors)
	}
}

func TestSettings(t *testing.T) {
	s := newSandbox(t)
	plug(t, macA)
	with := func(settings map[string]string) {
		t.Helper()
		eth0 := iface("eth0", macA, macC, "172.17.0.2/16")
		eth0.Settings = settings
		apply(t, s, &agent.NetworkState{Interfaces: []*agent.Interface{eth0}})
	}
	shows := func(key, want string) {
		t.Helper()
		err := s.do(func() error {
			got, err := os.ReadFile(settingFile(key, "eth0"))
			if err == nil && string(got) != want+"\n" {
				t.Errorf("%s is %q, not %s", key, got, want)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	with(map[string]string{"ipv4/conf/log_martians": "1", "ipv6/conf/accept_ra": "2", "ipv4/conf/of_another_kernel": "1"})
	shows("ipv4/conf/log_martians", "1")
	shows("ipv6/conf/accept_ra", "2")
	with(map[string]string{"ipv4/conf/log_martians": "1", "ipv4/conf/rp_filter": "2"})
	shows("ipv4/conf/log_martians", "1")
	shows("ipv6/conf/accept_ra", "1")
	shows("ipv4/conf/rp_filter", "2")
	with(nil)
	shows("ipv4/conf/log_martians", "0")
}

func TestIPv6IsOffWithoutAnAddress(t *testing.T) {
	s := newSandbox(t)
	plug(t, macA)
	apply(t, s, &agent.NetworkState{Interfaces: []*agent.Interface{iface("eth0", macA, macA, "10.0.0.2/24")}})
	l, _ := s.show(t, "eth0")
	list, err := s.inside.AddrList(l, netlink.FAMILY_V6)
	if err != nil || len(list) != 0 {
		t.Errorf("IPv6 addresses %v, %v", list, err)
	}
}

func TestConnectSwapAndDisconnect(t *testing.T) {
	s := newSandbox(t)
	plug(t, macA)
	apply(t, s, &agent.NetworkState{Interfaces: []*agent.Interface{iface("eth0", macA, macA, "10.0.0.2/24")}})
	go func() {
		time.Sleep(50 * time.Millisecond)
		plug(t, macB)
	}()
	apply(t, s, &agent.NetworkState{Interfaces: []*agent.Interface{
		iface("eth0", macA, macA, "10.0.0.2/24"), iface("eth1", macB, macB, "10.0.1.2/24"),
	}})
	apply(t, s, &agent.NetworkState{Interfaces: []*agent.Interface{
		iface("eth1", macA, macA, "10.0.0.2/24"), iface("eth0", macB, macB, "10.0.1.2/24"),
	}})
	if l, addresses := s.show(t, "eth0"); !slices.Equal(l.Attrs().HardwareAddr, macB.hardware()) || !slices.Equal(addresses, []string{"10.0.1.2/24"}) {
		t.Errorf("eth0 is %s with %v", l.Attrs().HardwareAddr, addresses)
	}
	apply(t, s, &agent.NetworkState{Interfaces: []*agent.Interface{iface("eth0", macB, macB, "10.0.1.2/24")}})
	if _, err := s.inside.LinkByName("eth1"); err == nil {
		t.Error("a disconnected interface is left")
	}
	if _, err := netlink.LinkByName(temporary(macA)); err != nil {
		t.Errorf("the card was not taken back: %v", err)
	}
	// And connected again.
	apply(t, s, &agent.NetworkState{Interfaces: []*agent.Interface{
		iface("eth0", macB, macB, "10.0.1.2/24"), iface("eth5", macA, macC, "10.0.0.2/24"),
	}})
	// Unplugged, and its place free.
	l, _ := s.show(t, "eth5")
	if err := s.inside.LinkDel(l); err != nil {
		t.Fatal(err)
	}
	apply(t, s, &agent.NetworkState{Interfaces: []*agent.Interface{iface("eth0", macB, macB, "10.0.1.2/24")}})
}

func TestResolver(t *testing.T) {
	s := newSandbox(t)
	ask := func() error {
		var conn net.Conn
		err := s.do(func() (err error) {
			conn, err = net.DialTimeout("udp4", resolverAddress.String(), time.Second)
			return err
		})
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		if _, err := conn.Write([]byte("hello")); err != nil {
			return err
		}
		buf := make([]byte, 10)
		n, err := conn.Read(buf)
		if err == nil && string(buf[:n]) != "HELLO" {
			t.Errorf("answer %q", buf[:n])
		}
		return err
	}
	apply(t, s, &agent.NetworkState{RelayDns: true})
	if err := ask(); err != nil {
		t.Error(err)
	}
	err := s.do(func() error {
		conn, err := net.DialTimeout("tcp4", resolverAddress.String(), time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	})
	if err != nil {
		t.Error(err)
	}
	apply(t, s, &agent.NetworkState{})
	if err := ask(); err == nil {
		t.Error("the resolver still answers")
	}
}

// A container that is a name server itself must find the port free.
func TestResolverLeavesPortFree(t *testing.T) {
	s := newSandbox(t)
	apply(t, s, &agent.NetworkState{RelayDns: true})
	err := s.do(func() error {
		udp, err := net.ListenPacket("udp4", "0.0.0.0:53")
		if err != nil {
			return err
		}
		tcp, err := net.Listen("tcp4", "0.0.0.0:53")
		if err != nil {
			return errors.Join(err, udp.Close())
		}
		return errors.Join(udp.Close(), tcp.Close())
	})
	if err != nil {
		t.Error(err)
	}
}

func TestNamespaceIsLeftToItself(t *testing.T) {
	before, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = before.Close() }()
	newSandbox(t)
	after, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = after.Close() }()
	if !before.Equal(after) {
		t.Error("the agent's own thread changed its namespace")
	}
}

func TestCheckRefuses(t *testing.T) {
	ok := func() *agent.NetworkState {
		return &agent.NetworkState{
			Interfaces: []*agent.Interface{iface("eth0", macA, macA, "10.0.0.2/24")},
			Routes:     []*agent.Route{{Interface: "eth0", Gateway: "10.0.0.1"}},
		}
	}
	if _, err := check(ok()); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*agent.NetworkState){
		"path as name":  func(s *agent.NetworkState) { s.Interfaces[0].Name = "../../x" },
		"loopback":      func(s *agent.NetworkState) { s.Interfaces[0].Name = "lo" },
		"long name":     func(s *agent.NetworkState) { s.Interfaces[0].Name = strings.Repeat("x", 16) },
		"short MAC":     func(s *agent.NetworkState) { s.Interfaces[0].Mac = []byte{1} },
		"multicast MAC": func(s *agent.NetworkState) { s.Interfaces[0].Mac = []byte{1, 0, 0, 0, 0, 1} },
		"no device":     func(s *agent.NetworkState) { s.Interfaces[0].DeviceMac = nil },
		"MTU":           func(s *agent.NetworkState) { s.Interfaces[0].Mtu = 1 << 30 },
		"setting's path": func(s *agent.NetworkState) {
			s.Interfaces[0].Settings = map[string]string{"ipv4/conf/../../../kernel/core_pattern": "1"}
		},
		"setting's table": func(s *agent.NetworkState) {
			s.Interfaces[0].Settings = map[string]string{"ipv4/route/flush": "1"}
		},
		"setting's value": func(s *agent.NetworkState) {
			s.Interfaces[0].Settings = map[string]string{"ipv4/conf/log_martians": "1\n"}
		},
		"address":            func(s *agent.NetworkState) { s.Interfaces[0].Addresses = []string{"10.0.0.2"} },
		"multicast address":  func(s *agent.NetworkState) { s.Interfaces[0].Addresses = []string{"224.0.0.1/24"} },
		"twice":              func(s *agent.NetworkState) { s.Interfaces = append(s.Interfaces, s.Interfaces[0]) },
		"route by another":   func(s *agent.NetworkState) { s.Routes[0].Interface = "eth1" },
		"gateway":            func(s *agent.NetworkState) { s.Routes[0].Gateway = "gateway" },
		"gateway's family":   func(s *agent.NetworkState) { s.Routes[0].Gateway = "fd00::1" },
		"destination":        func(s *agent.NetworkState) { s.Routes[0].Destination = "10.0.0.0" },
		"destination family": func(s *agent.NetworkState) { s.Routes[0].Destination = "fd00::/64" },
		"scope":              func(s *agent.NetworkState) { s.Routes[0].Scope = 77 },
		"metric":             func(s *agent.NetworkState) { s.Routes[0].Metric = 1 << 31 },
		"neighbor of another": func(s *agent.NetworkState) {
			s.Neighbors = []*agent.Neighbor{{Interface: "eth1", Address: "10.0.0.1", Mac: macC[:]}}
		},
		"neighbor's address": func(s *agent.NetworkState) {
			s.Neighbors = []*agent.Neighbor{{Interface: "eth0", Address: "10.0.0", Mac: macC[:]}}
		},
		"neighbor's MAC": func(s *agent.NetworkState) {
			s.Neighbors = []*agent.Neighbor{{Interface: "eth0", Address: "10.0.0.1", Mac: macC[:5]}}
		},
		"too many routes": func(s *agent.NetworkState) { s.Routes = make([]*agent.Route, maxRoutes+1) },
		"too many links":  func(s *agent.NetworkState) { s.Interfaces = make([]*agent.Interface, maxInterfaces+1) },
	} {
		s := ok()
		change(s)
		if _, err := check(s); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestRoutesAreOrdered(t *testing.T) {
	w, err := check(&agent.NetworkState{
		Interfaces: []*agent.Interface{iface("eth0", macA, macA, "10.0.0.2/24")},
		Routes: []*agent.Route{
			{Interface: "eth0", Gateway: "10.1.0.1"},
			{Interface: "eth0", Destination: "10.2.0.0/16", Gateway: "10.1.0.1"},
			{Interface: "eth0", Destination: "10.1.0.1/32", Scope: unix.RT_SCOPE_LINK},
			{Interface: "eth0", Destination: "10.0.0.0/24", Scope: unix.RT_SCOPE_LINK},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []netip.Prefix
	for _, r := range w.routes {
		got = append(got, r.destination)
	}
	want := []netip.Prefix{netip.MustParsePrefix("10.1.0.1/32"), netip.MustParsePrefix("10.2.0.0/16"), netip.MustParsePrefix("0.0.0.0/0")}
	if !slices.Equal(got, want) {
		t.Errorf("routes %v, want %v", got, want)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add("eth0", macA[:], "10.0.0.2/24", "10.0.0.0/8", "10.0.0.1", uint32(0), false, "ipv4/conf/log_martians")
	f.Add("eth0", macA[:], "fd00::2/64", "", "fe80::1", uint32(253), true, "ipv4/../x")
	f.Fuzz(func(t *testing.T, name string, hw []byte, address, destination, gateway string, scope uint32, six bool, setting string) {
		w, err := check(&agent.NetworkState{
			Interfaces: []*agent.Interface{{Name: name, Mac: hw, DeviceMac: hw, Addresses: []string{address}, Settings: map[string]string{setting: "1"}}},
			Routes:     []*agent.Route{{Interface: name, Destination: destination, Gateway: gateway, Scope: scope, Ipv6: six}},
		})
		if err != nil {
			return
		}
		if strings.ContainsAny(name, "/ ") || len(name) > 15 {
			t.Errorf("accepted name %q", name)
		}
		if file := settingFile(setting, name); file != filepath.Clean(file) || strings.Count(file, "/") != 7 {
			t.Errorf("accepted setting %q", setting)
		}
		for _, r := range w.routes {
			r.netlink(1)
		}
	})
}
