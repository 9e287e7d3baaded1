package egress

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/annotations"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/api/stream"
	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/shim/intercept"
	"github.com/nanoclaw/nanoclaw/shim/network"
)

// A world is a container's network as Docker and a VM would have it, with a
// gateway between:
//
//	outer          inner                        guest
//	 veth0 ======== eth0   egress   nanoclaw0 -copier- eth0
//
// In inner, 127.0.0.11 answers as the engine's resolver does.
type world struct {
	t                   *testing.T
	outer, inner, guest *network.Namespace
	net                 *network.Network
	egress              *Egress
	log                 records
	state               *agent.NetworkState
	device              string
}

// where outer answers: the peer and gateway, another container, the metadata
// service, somebody's machine, and the world.
var outerAddresses = []string{"172.30.0.1/16", "172.30.0.3/16", "169.254.169.254/32", "10.0.0.5/32", "203.0.113.9/32"}

var zone = map[string][]string{
	"db": {"172.30.0.3"}, "me": {"172.30.0.2"}, "www.example.com": {"203.0.113.9"}, "rebind.example.com": {"10.0.0.5"},
	"loop.example.com": {"127.0.0.11"}, "meta.example.com": {"169.254.169.254"}, "two.example.com": {"10.0.0.5", "203.0.113.9"},
	"gateway": {"172.30.0.1"}, "nas": {"10.0.0.5"}, "db.example.com": {"172.30.0.3"},
}

func newWorld(t *testing.T, rules *annotations.Network) *world {
	t.Helper()
	return newWorldWith(t, rules, nil, func(*world) *intercept.Interceptor { return nil })
}

// newAudited is a world in the mode audit: all are the rules that are not only
// recorded, and those that are.
func newAudited(t *testing.T, rules, all *annotations.Network) *world {
	t.Helper()
	return newWorldWith(t, rules, all, func(*world) *intercept.Interceptor { return nil })
}

// newWorldWith has some connections answered on the host.
func newWorldWith(t *testing.T, rules, all *annotations.Network, answered func(*world) *intercept.Interceptor) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	if err := network.CheckGateway(); err != nil {
		t.Skipf("this kernel cannot run the gateway: %v", err)
	}
	w := &world{t: t, outer: namespace(t), inner: namespace(t), guest: namespace(t)}
	w.connect()
	w.serveNames()
	var err error
	w.egress, err = New(t.Context(), Options{
		Namespace: w.inner, Rules: rules, All: all, ResolvConf: func() []byte { return []byte(engineResolver) }, Post: w.log.post,
		Intercept: answered(w),
	})
	w.must(err)
	t.Cleanup(func() { w.must(w.egress.Close()) })
	w.net = network.NewGateway(w.inner, nil, w.egress.Gateway())
	t.Cleanup(func() { w.must(w.net.Close()) })
	nic, err := w.net.NewNIC()
	w.must(err)
	w.boot("eth0", nic)
	w.must(w.net.Booted(nil))
	w.state, err = w.net.Wire(t.Context())
	w.must(err)
	w.configure()
	return w
}

func namespace(t *testing.T) *network.Namespace {
	t.Helper()
	ns, err := network.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// connect joins inner to outer, as the engine does.
func (w *world) connect() {
	w.t.Helper()
	w.must(w.outer.Do(func() error {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "veth0"}, PeerName: "peer"}); err != nil {
			return err
		}
		peer, err := netlink.LinkByName("peer")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetNsFd(peer, w.inner.Fd()); err != nil {
			return err
		}
		return up("veth0", outerAddresses...)
	}))
	w.must(w.inner.Do(func() error {
		l, err := netlink.LinkByName("peer")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetName(l, "eth0"); err != nil {
			return err
		}
		if err := up("eth0", "172.30.0.2/16"); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP("172.30.0.1")})
	}))
	w.must(w.inner.Do(func() error {
		for range 500 {
			l, err := netlink.LinkByName("eth0")
			if err != nil || l.Attrs().OperState == netlink.OperUp {
				return err
			}
			time.Sleep(10 * time.Millisecond)
		}
		return errors.New("eth0 does not come up")
	}))
}

func up(name string, addresses ...string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(l)
}

// boot is what a VMM does: it shows the guest a card, whose frames are the tap's.
func (w *world) boot(name string, nic hypervisor.NIC) {
	w.t.Helper()
	fd, err := unix.FcntlInt(nic.Tap.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	w.must(err)
	w.must(unix.SetNonblock(fd, true))
	host := os.NewFile(uintptr(fd), "tap")
	w.device = name
	var card *os.File
	w.must(w.guest.Do(func() error {
		tap := &netlink.Tuntap{
			LinkAttrs: netlink.LinkAttrs{Name: w.device}, Mode: netlink.TUNTAP_MODE_TAP,
			Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR, Queues: 1, NonPersist: true,
		}
		if err := netlink.LinkAdd(tap); err != nil {
			return err
		}
		card = tap.Fds[0]
		return unix.SetNonblock(int(card.Fd()), true)
	}))
	fd, err = unix.FcntlInt(card.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	w.must(err)
	w.must(unix.SetNonblock(fd, true))
	w.must(card.Close())
	card = os.NewFile(uintptr(fd), "card")
	var copiers sync.WaitGroup
	pass := func(to, from *os.File) {
		buf := make([]byte, 128<<10)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			if _, err := to.Write(buf[:n]); errors.Is(err, os.ErrClosed) {
				return
			}
		}
	}
	copiers.Go(func() { pass(host, card) })
	copiers.Go(func() { pass(card, host) })
	w.t.Cleanup(func() {
		_ = host.Close()
		_ = card.Close()
		copiers.Wait()
	})
}

// configure is what the guest's agent does.
func (w *world) configure() {
	w.t.Helper()
	w.must(w.guest.Do(func() error {
		l, err := netlink.LinkByName(w.device)
		if err != nil {
			return err
		}
		for _, i := range w.state.GetInterfaces() {
			if err := netlink.LinkSetHardwareAddr(l, i.Mac); err != nil {
				return err
			}
			for _, a := range i.Addresses {
				addr, err := netlink.ParseAddr(a)
				if err != nil {
					return err
				}
				addr.Flags = unix.IFA_F_NOPREFIXROUTE
				if err := netlink.AddrAdd(l, addr); err != nil {
					return err
				}
			}
			if err := netlink.LinkSetUp(l); err != nil {
				return err
			}
		}
		for _, r := range w.state.GetRoutes() {
			route := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(r.Gateway), Scope: netlink.Scope(r.Scope)}
			if r.Destination != "" {
				if route.Dst, err = netlink.ParseIPNet(r.Destination); err != nil {
					return err
				}
			}
			if err := netlink.RouteAdd(route); err != nil {
				return fmt.Errorf("%s: %w", r, err)
			}
		}
		for _, n := range w.state.GetNeighbors() {
			err := netlink.NeighSet(&netlink.Neigh{
				LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(n.Address), HardwareAddr: n.Mac,
			})
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

// serveNames is the engine's resolver.
func (w *world) serveNames() {
	w.t.Helper()
	var conn net.PacketConn
	w.must(w.inner.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", "127.0.0.11:53")
		return err
	}))
	a := &asked{table: zone}
	var done sync.WaitGroup
	done.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply, err := a.ask(context.Background(), netip.Addr{}, stream.DNSMessage{Message: buf[:n]}); err == nil {
				_, _ = conn.WriteTo(reply, from)
			}
		}
	})
	w.t.Cleanup(func() {
		_ = conn.Close()
		done.Wait()
	})
}

// serve answers connections and datagrams at a port of a namespace with a word.
func (w *world) serve(ns *network.Namespace, address, word string) {
	w.t.Helper()
	var l net.Listener
	var p net.PacketConn
	w.must(ns.Do(func() (err error) {
		if l, err = net.Listen("tcp4", address); err != nil {
			return err
		}
		p, err = net.ListenPacket("udp4", address)
		return err
	}))
	var done sync.WaitGroup
	done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, word)
			_ = c.Close()
		}
	})
	done.Go(func() {
		buf := make([]byte, 2048)
		for {
			_, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = p.WriteTo([]byte(word+" "+from.(*net.UDPAddr).IP.String()), from)
		}
	})
	w.t.Cleanup(func() {
		_ = l.Close()
		_ = p.Close()
		done.Wait()
	})
}

// read is what a connection from a namespace reads, and how long that took.
func read(ns *network.Namespace, kind, address string) (string, error) {
	var c net.Conn
	if err := ns.Do(func() (err error) {
		c, err = net.DialTimeout(kind, address, 5*time.Second)
		return err
	}); err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", err
	}
	if strings.HasPrefix(kind, "udp") {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", err
		}
		buf := make([]byte, 2048)
		n, err := c.Read(buf)
		return string(buf[:n]), err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

// lookup asks for a name from the guest, at whatever server.
func (w *world) lookup(name string) string {
	w.t.Helper()
	var c net.Conn
	w.must(w.guest.Do(func() (err error) {
		c, err = net.Dial("udp4", "203.0.113.200:53")
		return err
	}))
	defer func() { _ = c.Close() }()
	w.must(c.SetDeadline(time.Now().Add(10 * time.Second)))
	_, err := c.Write(ask(w.t, name+".", dnsmessage.TypeA, false))
	w.must(err)
	buf := make([]byte, 2048)
	n, err := c.Read(buf)
	w.must(err)
	code, addrs := said(w.t, buf[:n])
	if len(addrs) == 0 {
		return code.String()
	}
	return addrs[0]
}

// reads connects from the guest to a name or an address.
func (w *world) reads(host, port string) (string, error) {
	w.t.Helper()
	if net.ParseIP(host) == nil {
		host = w.lookup(host)
	}
	if net.ParseIP(host) == nil {
		return "", errors.New(host)
	}
	return read(w.guest, "tcp4", net.JoinHostPort(host, port))
}

func (w *world) reaches(host, port, word string) {
	w.t.Helper()
	if got, err := w.reads(host, port); got != word || err != nil {
		w.t.Errorf("%s:%s: %q, %v", host, port, got, err)
	}
}

// denied: the guest is refused, at once, and one record says so.
func (w *world) denied(host, port, rule, why string) {
	w.t.Helper()
	before := len(w.log.list())
	began := time.Now()
	got, err := w.reads(host, port)
	if got != "" || err == nil {
		w.t.Errorf("%s:%s was reached: %q, %v", host, port, got, err)
		return
	}
	if took := time.Since(began); took > time.Second {
		w.t.Errorf("%s:%s was refused after %s: %v", host, port, took, err)
	}
	all := w.log.list()[before:]
	if len(all) != 1 || all[0].Rule != rule || all[0].Object.Host != host || !strings.Contains(all[0].Object.Detail, why) {
		w.t.Errorf("%s:%s: recorded %+v", host, port, all)
		for _, e := range all {
			w.t.Errorf("  %+v", *e.Object)
		}
	}
}

func TestOnlyWhatIsListed(t *testing.T) {
	w := newWorld(t, only("db:80", "me", "*.example.com", "nosuch"))
	for _, a := range []string{"172.30.0.1", "172.30.0.3", "169.254.169.254", "10.0.0.5", "203.0.113.9"} {
		w.serve(w.outer, a+":80", a)
	}
	w.serve(w.outer, "172.30.0.3:81", "another port")
	w.serve(w.inner, "127.0.0.11:80", "the namespace's own")

	w.reaches("db", "80", "172.30.0.3")
	w.reaches("www.example.com", "80", "203.0.113.9")
	w.reaches("two.example.com", "80", "203.0.113.9")
	w.denied("db", "81", "network.allow", "")
	w.denied("other", "80", "network.allow", "")
	// Addresses that nobody was answered with.
	w.denied("172.30.0.3", "80", "network.allow", "")
	w.denied("203.0.113.9", "80", "network.allow", "")
	w.denied("169.254.169.254", "80", "network.allow", "")
	w.denied("198.18.77.77", "80", "network", "stands for no name")
	// Names whose owners would like to be elsewhere.
	w.denied("rebind.example.com", "80", "network.allow", "resolves to 10.0.0.5")
	w.denied("meta.example.com", "80", "network.allow", "resolves to 169.254.169.254")
	w.denied("loop.example.com", "80", "network", "resolves to 127.0.0.11")
	if a := w.lookup("me"); a != "172.30.0.2" {
		t.Errorf("the container's own name is %s", a)
	}
	if a := w.lookup("nosuch"); a != dnsmessage.RCodeNameError.String() {
		t.Errorf("a name that is not there is %s", a)
	}
	// Datagrams are refused at once, and recorded.
	if got, err := read(w.guest, "udp4", "203.0.113.9:80"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a datagram: %q, %v", got, err)
	}
	refused, err := w.net.Refused()
	if err != nil || len(refused) != 1 || refused[0].Destination.String() != "203.0.113.9:80" || refused[0].Protocol != unix.IPPROTO_UDP {
		t.Errorf("refused %v, %v", refused, err)
	}
	if refused, err := w.net.Refused(); err != nil || len(refused) != 0 {
		t.Errorf("refused again %v, %v", refused, err)
	}
}

func TestAllButWhatIsDenied(t *testing.T) {
	rules := but("169.254.169.254", "10.0.0.0/8", "evil.example.com", "db:81", "203.0.113.9:81")
	w := newWorld(t, rules)
	for _, a := range []string{"172.30.0.3", "169.254.169.254", "10.0.0.5", "203.0.113.9"} {
		w.serve(w.outer, a+":80", a)
		w.serve(w.outer, a+":81", a)
	}
	w.reaches("db", "80", "172.30.0.3")
	w.reaches("www.example.com", "80", "203.0.113.9")
	w.reaches("172.30.0.3", "80", "172.30.0.3")
	w.denied("db", "81", "network.deny db:81", "")
	w.denied("203.0.113.9", "81", "network.deny 203.0.113.9:81", "")
	w.denied("169.254.169.254", "80", "network.deny 169.254.169.254", "")
	w.denied("10.0.0.5", "80", "network.deny 10.0.0.0/8", "")
	w.denied("evil.example.com", "80", "network.deny evil.example.com", "")
	if a := w.lookup("rebind.example.com"); a != "10.0.0.5" {
		t.Errorf("an open name is %s", a)
	}
	// Datagrams pass, with the container's address, but to what is denied.
	if got, err := read(w.guest, "udp4", "203.0.113.9:80"); got != "203.0.113.9 172.30.0.2" || err != nil {
		t.Errorf("a datagram: %q, %v", got, err)
	}
	for _, to := range []string{"10.0.0.5:80", "169.254.169.254:80", "203.0.113.9:81", "198.18.0.1:80"} {
		if got, err := read(w.guest, "udp4", to); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("a datagram to %s: %q, %v", to, got, err)
		}
	}
}

// TestPeersByName: where all that is private is denied, other containers of the
// container's network are reached by the engine's names for them, and nothing else is.
func TestPeersByName(t *testing.T) {
	w := newWorld(t, but("private"))
	onHost(w.egress.judge, "172.30.0.1")
	for _, a := range []string{"172.30.0.1:80", "172.30.0.3:80", "10.0.0.5:80", "203.0.113.9:80"} {
		w.serve(w.outer, a, a)
	}
	w.reaches("db", "80", "172.30.0.3:80")
	w.reaches("www.example.com", "80", "203.0.113.9:80")
	w.denied("172.30.0.3", "80", "network.deny private", "")
	closed := []string{"gateway", "nas", "db.example.com"}
	for _, name := range closed {
		if got, err := w.reads(name, "80"); err == nil {
			t.Errorf("%s was reached: %q", name, got)
		}
	}
	// Without the look at the host's addresses it is reached, or this would prove
	// nothing.
	onHost(w.egress.judge, "127.0.0.1")
	w.reaches("gateway", "80", "172.30.0.1:80")
}

// TestPublished: others reach the guest, with or without rules about what it
// reaches, and it answers them.
func TestPublished(t *testing.T) {
	for name, rules := range map[string]*annotations.Network{"listed": only("db"), "open": but("private")} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rules)
			w.serve(w.guest, "172.30.0.2:8000", "the guest")
			if got, err := read(w.outer, "tcp4", "172.30.0.2:8000"); got != "the guest" || err != nil {
				t.Errorf("TCP: %q, %v", got, err)
			}
			if got, err := read(w.outer, "udp4", "172.30.0.2:8000"); got != "the guest 172.30.0.1" || err != nil {
				t.Errorf("UDP: %q, %v", got, err)
			}
			if _, err := read(w.outer, "tcp4", "172.30.0.2:8001"); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("a port without a server: %v", err)
			}
		})
	}
}

func TestNothing(t *testing.T) {
	w := newWorld(t, &annotations.Network{Mode: annotations.NetworkNone})
	if w.state != nil {
		t.Errorf("the guest is to have %v", w.state)
	}
	if _, err := read(w.outer, "tcp4", "172.30.0.2:8000"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a published port: %v", err)
	}
}

// TestRulesThatDoNotLoad: where the kernel does not take the rules, as where it
// lacks something, the container has no network, and is not told that it has.
func TestRulesThatDoNotLoad(t *testing.T) {
	w := newWorld(t, but("10.0.0.0/8"))
	w.serve(w.outer, "203.0.113.9:80", "the world")
	gateway := w.egress.Gateway()
	// No rule about IPv4 can have it.
	gateway.Denied = append(gateway.Denied, network.Destination{Prefix: netip.MustParsePrefix("2001:db8::/32")})
	w.must(w.net.Close())
	w.net = network.NewGateway(w.inner, nil, gateway)
	nic, err := w.net.NewNIC()
	w.must(err)
	w.boot("eth1", nic)
	w.must(w.net.Booted(nil))
	if state, err := w.net.Wire(t.Context()); err == nil || state != nil {
		t.Fatalf("the guest is to have %v, %v", state, err)
	}
	c, err := nftables.New(nftables.WithNetNSFd(w.inner.Fd()))
	w.must(err)
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
	w.must(err)
	if len(chains) != 2 {
		t.Errorf("%d chains", len(chains))
	}
	for _, chain := range chains {
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil || *chain.Policy != nftables.ChainPolicyDrop || len(rules) != 0 {
			t.Errorf("%s lets something pass: policy %d, %d rules, %v", chain.Name, *chain.Policy, len(rules), err)
		}
	}
}

// TestAllOfAConversation: much passes both ways, and an end on one side is an
// end on the other while that goes on talking.
func TestAllOfAConversation(t *testing.T) {
	w := newWorld(t, only("db"))
	var l net.Listener
	w.must(w.outer.Do(func() (err error) {
		l, err = net.Listen("tcp4", "172.30.0.3:80")
		return err
	}))
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer func() { _ = c.Close() }()
		// All of it first: the other side has said its end by then.
		all, err := io.ReadAll(c)
		if err == nil {
			_, err = c.Write(all)
		}
		served <- err
	}()
	t.Cleanup(func() { _ = l.Close() })
	to := w.lookup("db")
	var c net.Conn
	w.must(w.guest.Do(func() (err error) {
		c, err = net.Dial("tcp4", net.JoinHostPort(to, "80"))
		return err
	}))
	defer func() { _ = c.Close() }()
	w.must(c.SetDeadline(time.Now().Add(20 * time.Second)))
	sent := bytes.Repeat([]byte("nanoclaw"), 1<<19)
	_, err := c.Write(sent)
	w.must(err)
	w.must(c.(*net.TCPConn).CloseWrite())
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
	w.must(<-served)
}

// TestAnUnreachableServer: a connection that is allowed and cannot be made ends
// with an error, and is no denial.
func TestAnUnreachableServer(t *testing.T) {
	w := newWorld(t, only("db"))
	if got, err := w.reads("db", "9"); err == nil {
		t.Errorf("read %q where nobody listens", got)
	}
	if all := w.log.list(); len(all) > 0 {
		t.Errorf("recorded %+v", all)
	}
}

// TestTheNamespaceIsLeftAsItWas: it may be somebody else's, and outlive the
// container.
func TestTheNamespaceIsLeftAsItWas(t *testing.T) {
	w := newWorld(t, only("db"))
	setting := func(ns *network.Namespace) string {
		var content []byte
		w.must(ns.Do(func() (err error) {
			content, err = os.ReadFile("/proc/sys/net/ipv4/ip_forward")
			return err
		}))
		return strings.TrimSpace(string(content))
	}
	tables := func() int {
		c, err := nftables.New(nftables.WithNetNSFd(w.inner.Fd()))
		w.must(err)
		all, err := c.ListTables()
		w.must(err)
		return len(all)
	}
	other := &nftables.Table{Name: "another's", Family: nftables.TableFamilyINet}
	c, err := nftables.New(nftables.WithNetNSFd(w.inner.Fd()))
	w.must(err)
	c.AddTable(other)
	w.must(c.Flush())
	if setting(w.inner) != "1" || tables() != 3 {
		t.Errorf("while it is used: forwarding %s, %d tables", setting(w.inner), tables())
	}
	w.must(w.net.Close())
	if setting(w.inner) != setting(namespace(t)) || tables() != 1 {
		t.Errorf("afterwards: forwarding %s, %d tables", setting(w.inner), tables())
	}
}

// TestDialGuard: what the rules do where a judgement was wrong.
func TestDialGuard(t *testing.T) {
	w := newWorld(t, only("db"))
	w.serve(w.inner, "127.0.0.11:80", "the namespace's own")
	w.serve(w.inner, "172.30.0.2:80", "the namespace's own")
	for _, to := range []string{"127.0.0.11:80", "172.30.0.2:80"} {
		if c, err := w.egress.proxy.dial(t.Context(), netip.MustParseAddrPort(to)); err == nil {
			t.Errorf("%s was reached", to)
			_ = c.Close()
		}
		// Without the mark it is reached, or this would prove nothing.
		if got, err := read(w.inner, "tcp4", to); got != "the namespace's own" {
			t.Errorf("%s without a mark: %q, %v", to, got, err)
		}
	}
}

// blind judges no address that a name resolves to.
type blind struct{ decider }

func (blind) resolved(string, uint16, netip.Addr) annotations.Verdict {
	return annotations.Verdict{Decision: annotations.DecisionAllow}
}

// TestWithoutTheLookAtAddresses: names lead everywhere if nobody looks.
func TestWithoutTheLookAtAddresses(t *testing.T) {
	w := newWorld(t, only("*.example.com"))
	w.serve(w.outer, "10.0.0.5:80", "somebody's machine")
	w.serve(w.outer, "169.254.169.254:80", "metadata")
	w.egress.proxy.judge = blind{w.egress.judge}
	w.reaches("rebind.example.com", "80", "somebody's machine")
	w.reaches("meta.example.com", "80", "metadata")
}

// TestForgedFrames: a guest whose kernel has fallen sends what it likes.
func TestForgedFrames(t *testing.T) {
	w := newWorld(t, but("10.0.0.0/8"))
	listen := func() net.PacketConn {
		var p net.PacketConn
		w.must(w.outer.Do(func() (err error) {
			p, err = net.ListenPacket("udp4", "172.30.0.1:9000")
			return err
		}))
		t.Cleanup(func() { _ = p.Close() })
		return p
	}
	p := listen()
	frames := map[string]func(w *world) []byte{
		"another's address": func(w *world) []byte { return w.datagram("172.30.0.77", "172.30.0.1", nil) },
		"a tagged frame":    func(w *world) []byte { return tagged(w.datagram("172.30.0.77", "172.30.0.1", nil)) },
		"another card":      func(w *world) []byte { f := w.datagram("172.30.0.77", "172.30.0.1", nil); f[11] ^= 1; return f },
		"header options":    func(w *world) []byte { return w.datagram("172.30.0.77", "172.30.0.1", []byte{1, 1, 1, 1}) },
	}
	send := func() (arrived []string) {
		for name, frame := range frames {
			w.send(frame(w))
			w.must(p.SetReadDeadline(time.Now().Add(300 * time.Millisecond)))
			buf := make([]byte, 100)
			if _, from, err := p.ReadFrom(buf); err == nil {
				arrived = append(arrived, name+" from "+from.String())
			}
		}
		return arrived
	}
	if arrived := send(); len(arrived) > 0 {
		t.Errorf("these got through: %v", arrived)
	}
	// Without the guard they do, or this would prove nothing.
	c, err := nftables.New(nftables.WithNetNSFd(w.inner.Fd()))
	w.must(err)
	c.DelTable(&nftables.Table{Name: "nanoclaw", Family: nftables.TableFamilyNetdev})
	w.must(c.Flush())
	if arrived := send(); len(arrived) < 3 {
		t.Errorf("without the guard only these got through: %v", arrived)
	}
}

// datagram is a frame with a UDP datagram, with or without options in its header.
func (w *world) datagram(from, to string, options []byte) []byte {
	src, dst := netip.MustParseAddr(from).As4(), netip.MustParseAddr(to).As4()
	frame := append(append([]byte{}, w.state.Neighbors[0].Mac...), w.state.Interfaces[0].Mac...)
	frame = append(frame, 0x08, 0)
	payload := []byte("forged")
	ip := make([]byte, 20, 64)
	ip[0] = 0x45 + byte(len(options)/4)
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(options)+8+len(payload)))
	ip[8], ip[9] = 64, unix.IPPROTO_UDP
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
	ip = append(ip, options...)
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	udp := []byte{0x23, 0x29, 0x23, 0x28, 0, byte(8 + len(payload)), 0, 0}
	return append(append(append(frame, ip...), udp...), payload...)
}

func tagged(frame []byte) []byte {
	return bytes.Join([][]byte{frame[:12], {0x81, 0, 0, 0}, frame[12:]}, nil)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// send sends a frame by the guest's card.
func (w *world) send(frame []byte) {
	w.t.Helper()
	w.must(w.guest.Do(func() error {
		l, err := netlink.LinkByName(w.device)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index})
	}))
}
