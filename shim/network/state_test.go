package network

import (
	"maps"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

func cidr(t *testing.T, s string) *net.IPNet {
	t.Helper()
	n, err := netlink.ParseIPNet(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func unicast(family int) netlink.Route {
	return netlink.Route{LinkIndex: 7, Family: family, Type: unix.RTN_UNICAST, Protocol: unix.RTPROT_BOOT}
}

func TestState(t *testing.T) {
	mac := net.HardwareAddr{0x02, 0x42, 0xac, 0x11, 0, 2}
	device := net.HardwareAddr{0x02, 1, 2, 3, 4, 5}
	bound := []binding{{
		link: link{index: 7, name: "eth0", mac: mac, mtu: 1450},
		tap:  &tap{mac: device},
	}}
	addr := func(index int, s string, flags int) netlink.Addr {
		return netlink.Addr{IPNet: cidr(t, s), LinkIndex: index, Flags: flags}
	}
	const v4, v6 = netlink.FAMILY_V4, netlink.FAMILY_V6
	v := view{
		addrs: []netlink.Addr{
			addr(1, "127.0.0.1/8", 0),
			addr(7, "172.17.0.2/16", unix.IFA_F_PERMANENT),
			addr(7, "172.17.0.77/16", unix.IFA_F_SECONDARY),
			addr(7, "fd00::2/64", unix.IFA_F_NODAD),
			addr(7, "fd00::aaaa/64", unix.IFA_F_TEMPORARY),
			addr(7, "fe80::42:acff:fe11:2/64", unix.IFA_F_PERMANENT),
			addr(7, "fe80::1234/64", unix.IFA_F_PERMANENT),
		},
	}
	def := unicast(v4)
	def.Gw = net.IPv4(172, 17, 0, 1)
	prefix := unicast(v4)
	prefix.Dst, prefix.Protocol, prefix.Scope, prefix.Src = cidr(t, "172.17.0.0/16"), unix.RTPROT_KERNEL, netlink.SCOPE_LINK, net.IPv4(172, 17, 0, 2)
	static := unicast(v4)
	static.Dst, static.Gw, static.Flags, static.Priority = cidr(t, "10.9.0.0/24"), net.IPv4(169, 254, 1, 1), unix.RTNH_F_ONLINK|unix.RTNH_F_LINKDOWN, 50
	scoped := unicast(v4)
	scoped.Dst, scoped.Scope, scoped.Src = cidr(t, "169.254.1.1/32"), netlink.SCOPE_LINK, net.IPv4(172, 17, 0, 2)
	def6 := unicast(v6)
	def6.Dst, def6.Priority, def6.MultiPath = cidr(t, "::/0"), 1024, []*netlink.NexthopInfo{
		{LinkIndex: 7, Gw: net.ParseIP("fd00::1")},
		{LinkIndex: 7, Gw: net.ParseIP("fd00::3")},
	}
	linkLocal6 := unicast(v6)
	linkLocal6.Dst, linkLocal6.Protocol = cidr(t, "fe80::/64"), unix.RTPROT_KERNEL
	prefix6 := unicast(v6)
	prefix6.Dst, prefix6.Protocol = cidr(t, "fd00::/64"), unix.RTPROT_KERNEL
	other := unicast(v4)
	other.LinkIndex, other.Dst = 1, cidr(t, "10.8.0.0/24")
	broadcast := unicast(v4)
	broadcast.Type = unix.RTN_BROADCAST
	foreignKernel := unicast(v4)
	foreignKernel.Dst, foreignKernel.Protocol, foreignKernel.Scope = cidr(t, "10.7.0.0/24"), unix.RTPROT_KERNEL, netlink.SCOPE_LINK
	v.routes = []netlink.Route{def, prefix, static, scoped, other, broadcast, foreignKernel, def6, linkLocal6, prefix6}

	got, err := v.state(bound)
	if err != nil {
		t.Fatal(err)
	}
	link := uint32(netlink.SCOPE_LINK)
	want := &agent.NetworkState{
		Interfaces: []*agent.Interface{{
			Name: "eth0", Mac: mac, DeviceMac: device, Mtu: 1450,
			Addresses: []string{"172.17.0.2/16", "172.17.0.77/16", "fd00::2/64", "fe80::1234/64"},
		}},
		Routes: []*agent.Route{
			{Destination: "169.254.1.1/32", Interface: "eth0", Source: "172.17.0.2", Scope: link},
			{Destination: "10.7.0.0/24", Interface: "eth0", Scope: link},
			{Gateway: "172.17.0.1", Interface: "eth0"},
			{Destination: "10.9.0.0/24", Gateway: "169.254.1.1", Interface: "eth0", Flags: unix.RTNH_F_ONLINK, Metric: 50},
			{Gateway: "fd00::1", Interface: "eth0", Ipv6: true, Metric: 1024},
			{Gateway: "fd00::3", Interface: "eth0", Ipv6: true, Metric: 1025},
		},
	}
	if !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestUnsupportedRoutesAreRefused(t *testing.T) {
	via := unicast(netlink.FAMILY_V4)
	via.Via = &netlink.Via{AddrFamily: netlink.FAMILY_V6, Addr: net.ParseIP("fe80::1")}
	v := view{routes: []netlink.Route{via}}
	if _, err := v.state([]binding{{link: link{index: 7, name: "eth0"}, tap: &tap{}}}); err == nil {
		t.Error("a next hop of another family was left out in silence")
	}
}

// TestSettings reads of an interface what was set for it, and of another that
// nothing was.
func TestSettings(t *testing.T) {
	tn := newTestnet(t)
	tn.connect("eth0", "veth0", 1500, []string{"172.30.0.2/16", "fd30::2/64"}, []string{"172.30.0.1/16"})
	tn.connect("eth1", "veth1", 1400, []string{"172.31.0.2/16"}, []string{"172.31.0.1/16"})
	want := map[string]string{"ipv4/conf/log_martians": "1", "ipv6/conf/accept_ra": "2"}
	tn.must(tn.inner.Do(func() error {
		for key, value := range want {
			file := filepath.Join("/proc/sys/net", path.Dir(key), "eth0", path.Base(key))
			if err := os.WriteFile(file, []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	}))
	for _, i := range tn.wire().Interfaces {
		if i.Name != "eth0" {
			want = nil
		}
		if !maps.Equal(i.Settings, want) {
			t.Errorf("the settings of %s are %v, not %v", i.Name, i.Settings, want)
		}
	}
}

// TestStateOfRealRoutes reads what a kernel shows rather than what the test
// thinks it does.
func TestStateOfRealRoutes(t *testing.T) {
	tn := newTestnet(t)
	tn.dualStack()
	tn.must(tn.inner.Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		onlink := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: cidr(t, "10.9.0.0/24"), Gw: net.IPv4(192, 0, 2, 1), Flags: int(netlink.FLAG_ONLINK), Priority: 50}
		scoped := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: cidr(t, "192.0.2.7/32"), Scope: netlink.SCOPE_LINK, Src: net.IPv4(172, 30, 0, 2)}
		if err := netlink.RouteAdd(onlink); err != nil {
			return err
		}
		return netlink.RouteAdd(scoped)
	}))
	state := tn.wire()
	if want := []string{"172.30.0.2/16", "fd30::2/64"}; !slices.Equal(state.Interfaces[0].Addresses, want) {
		t.Errorf("addresses %v, want %v", state.Interfaces[0].Addresses, want)
	}
	want := []*agent.Route{
		{Destination: "192.0.2.7/32", Interface: "eth0", Source: "172.30.0.2", Scope: uint32(netlink.SCOPE_LINK)},
		{Gateway: "172.30.0.1", Interface: "eth0"},
		{Destination: "10.9.0.0/24", Gateway: "192.0.2.1", Interface: "eth0", Flags: unix.RTNH_F_ONLINK, Metric: 50},
		{Gateway: "fd30::1", Interface: "eth0", Ipv6: true, Metric: 1024},
	}
	if len(state.Routes) != len(want) {
		t.Fatalf("routes %v, want %v", state.Routes, want)
	}
	for _, w := range want {
		if !slices.ContainsFunc(state.Routes, func(r *agent.Route) bool { return proto.Equal(r, w) }) {
			t.Errorf("no route %v in %v", w, state.Routes)
		}
	}
}
