package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A testnet is a container's network as Docker and a VM would have it:
//
//	outer          inner                guest
//	 veth0 ======== eth0 ~~~ nanoclaw0 -copier- eth0
//
// outer stands for Docker's bridge and the world behind it, inner is the
// container's namespace, guest stands for the VM: its devices are taps whose
// frames a copier carries to and from the taps in inner.
type testnet struct {
	t                   *testing.T
	outer, inner, guest *Namespace
	net                 *Network
}

func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	if err := Check(); err != nil {
		t.Skipf("this kernel cannot run the network: %v", err)
	}
}

func newNamespace(t testing.TB) *Namespace {
	t.Helper()
	ns, err := NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	return ns
}

// newTestnet makes the namespaces and a VM with one NIC. There is no interface
// yet.
func newTestnet(t *testing.T) *testnet {
	t.Helper()
	requireRoot(t)
	tn := &testnet{t: t, outer: newNamespace(t), inner: newNamespace(t), guest: newNamespace(t)}
	tn.net = New(tn.inner, nil)
	t.Cleanup(func() {
		if err := tn.net.Close(); err != nil {
			t.Error(err)
		}
	})
	nic, err := tn.net.NewNIC()
	if err != nil {
		t.Fatal(err)
	}
	if err := tn.AddNIC(t.Context(), nic); err != nil {
		t.Fatal(err)
	}
	if err := tn.net.Booted(tn); err != nil {
		t.Fatal(err)
	}
	return tn
}

// AddNIC is what a VMM does: it takes the tap and shows the guest a device.
func (tn *testnet) AddNIC(_ context.Context, n hypervisor.NIC) error {
	fd, err := unix.FcntlInt(n.Tap.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	host := os.NewFile(uintptr(fd), "tap")
	device := &tap{}
	err = tn.guest.Do(func() error {
		if err := device.open(); err != nil {
			return err
		}
		l, err := netlink.LinkByIndex(device.index)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetDown(l), netlink.LinkSetHardwareAddr(l, n.MAC))
	})
	if err != nil {
		return err
	}
	var copiers sync.WaitGroup
	copiers.Go(func() { copyFrames(host, device.file) })
	copiers.Go(func() { copyFrames(device.file, host) })
	tn.t.Cleanup(func() {
		_ = host.Close()
		_ = device.file.Close()
		copiers.Wait()
	})
	return nil
}

func copyFrames(to, from *os.File) {
	buf := make([]byte, 128<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		// A device that is down takes no frame; a wire loses it.
		if _, err := to.Write(buf[:n]); errors.Is(err, os.ErrClosed) {
			return
		}
	}
}

// connect joins an interface of inner to one of outer, as Docker does.
func (tn *testnet) connect(name, outerName string, mtu int, innerAddrs, outerAddrs []string) {
	tn.t.Helper()
	tn.must(tn.outer.Do(func() error {
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: outerName, MTU: mtu},
			PeerName:  "in" + outerName,
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		peer, err := netlink.LinkByName("in" + outerName)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetNsFd(peer, tn.inner.Fd()); err != nil {
			return err
		}
		return address(outerName, outerAddrs)
	}))
	tn.must(tn.inner.Do(func() error {
		l, err := netlink.LinkByName("in" + outerName)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetName(l, name); err != nil {
			return err
		}
		return address(name, innerAddrs)
	}))
	tn.must(tn.outer.Do(func() error { return awaitUp(outerName) }))
	tn.must(tn.inner.Do(func() error { return awaitUp(name) }))
}

// awaitUp waits until a link carries frames: the kernel drops them for a
// moment after both ends of a veth are up, and ARP asks again only after a
// second.
func awaitUp(name string) error {
	for range 500 {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if l.Attrs().OperState == netlink.OperUp {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New(name + " does not come up")
}

// address brings a link up with addresses that need no duplicate detection.
func address(name string, addrs []string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(l, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(l)
}

func (tn *testnet) route(ns *Namespace, destination, gateway, device string) {
	tn.t.Helper()
	tn.must(ns.Do(func() error {
		r, err := testRoute(destination, gateway, device)
		if err != nil {
			return err
		}
		return netlink.RouteReplace(r)
	}))
}

func testRoute(destination, gateway, device string) (*netlink.Route, error) {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return nil, err
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(gateway)}
	if destination != "" {
		if r.Dst, err = netlink.ParseIPNet(destination); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (tn *testnet) wire() *agent.NetworkState {
	tn.t.Helper()
	state, err := tn.net.Wire(tn.t.Context())
	tn.must(err)
	tn.must(tn.apply(state))
	return state
}

// apply is what the agent does with a state.
func (tn *testnet) apply(state *agent.NetworkState) error {
	return tn.guest.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			if l.Attrs().Flags&net.FlagLoopback != 0 {
				continue
			}
			// Addresses and routes go with the link.
			if err := netlink.LinkSetDown(l); err != nil {
				return err
			}
			if err := netlink.LinkSetName(l, "dev"+strconv.Itoa(l.Attrs().Index)); err != nil {
				return err
			}
			addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
			if err != nil {
				return err
			}
			for _, a := range addrs {
				if err := netlink.AddrDel(l, &a); err != nil {
					return err
				}
			}
		}
		for _, i := range state.GetInterfaces() {
			if err := applyInterface(links, i); err != nil {
				return fmt.Errorf("interface %s: %w", i.Name, err)
			}
		}
		for _, r := range state.GetRoutes() {
			if err := applyRoute(r); err != nil {
				return fmt.Errorf("route %s: %w", r, err)
			}
		}
		return nil
	})
}

// applyInterface finds a device by the MAC it was made with, which is kept as
// the link's alias because the MAC itself is overwritten.
func applyInterface(links []netlink.Link, i *agent.Interface) error {
	for _, l := range links {
		a := l.Attrs()
		if a.Alias == "" && !bytes.Equal(a.HardwareAddr, i.DeviceMac) {
			continue
		}
		if a.Alias != "" && a.Alias != net.HardwareAddr(i.DeviceMac).String() {
			continue
		}
		if err := netlink.LinkSetAlias(l, net.HardwareAddr(i.DeviceMac).String()); err != nil {
			return err
		}
		if err := netlink.LinkSetHardwareAddr(l, i.Mac); err != nil {
			return err
		}
		if err := netlink.LinkSetMTU(l, int(i.Mtu)); err != nil {
			return err
		}
		if err := netlink.LinkSetName(l, i.Name); err != nil {
			return err
		}
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+i.Name+"/disable_ipv6", []byte("0"), 0); err != nil {
			return err
		}
		return address(i.Name, i.Addresses)
	}
	return errors.New("no device has the address " + net.HardwareAddr(i.DeviceMac).String())
}

func applyRoute(r *agent.Route) error {
	route, err := testRoute(r.Destination, r.Gateway, r.Interface)
	if err != nil {
		return err
	}
	route.Scope = netlink.Scope(r.Scope)
	route.Flags = int(r.Flags)
	route.Src = net.ParseIP(r.Source)
	route.Priority = int(r.Metric)
	route.Family = netlink.FAMILY_V4
	if r.Ipv6 {
		route.Family = netlink.FAMILY_V6
		if r.Destination == "" {
			route.Dst = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
		}
	}
	return netlink.RouteReplace(route)
}

func (tn *testnet) must(err error) {
	tn.t.Helper()
	if err != nil {
		tn.t.Fatal(err)
	}
}

// echo serves TCP and UDP at each address in ns; it sends back what it gets.
func echo(t *testing.T, ns *Namespace, addresses ...string) {
	t.Helper()
	for _, a := range addresses {
		echoAt(t, ns, a)
	}
}

func echoAt(t *testing.T, ns *Namespace, address string) {
	t.Helper()
	var l net.Listener
	var p net.PacketConn
	err := ns.Do(func() (err error) {
		if l, err = net.Listen("tcp", address); err != nil {
			return err
		}
		p, err = net.ListenPacket("udp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				_ = c.SetDeadline(time.Now().Add(time.Minute))
				_, _ = io.Copy(c, c)
			})
		}
	})
	wg.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = p.WriteTo(buf[:n], from)
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		_ = p.Close()
		wg.Wait()
	})
}

// talk sends size bytes to an echo and compares what comes back.
func talk(ns *Namespace, network, address string, size int, timeout time.Duration) error {
	var c net.Conn
	err := ns.Do(func() (err error) {
		c, err = net.DialTimeout(network, address, timeout)
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	sent := bytes.Repeat([]byte("nanoclaw"), size/8+1)[:size]
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		wrote <- err
	}()
	got := make([]byte, size)
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if err := <-wrote; err != nil {
		return err
	}
	if !bytes.Equal(sent, got) {
		return errors.New("the bytes that came back are others")
	}
	return nil
}

func (tn *testnet) talks(what string, ns *Namespace, network, address string, size int) {
	tn.t.Helper()
	if err := talk(ns, network, address, size, 10*time.Second); err != nil {
		tn.t.Errorf("%s: %s %s: %v", what, network, address, err)
	}
}

// snmp returns a counter of ns's network stack, such as "Tcp" "OutRsts".
func snmp(t *testing.T, ns *Namespace, group, name string) int {
	t.Helper()
	var content []byte
	err := ns.Do(func() (err error) {
		content, err = os.ReadFile("/proc/thread-self/net/snmp")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if fields[0] != group+":" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, n := range names {
			if n == name {
				v, err := strconv.Atoi(fields[i])
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
		}
	}
	t.Fatalf("no counter %s %s", group, name)
	return 0
}
