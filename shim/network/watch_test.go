package network

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/vishvananda/netlink"
)

// watch follows the network as the shim does and returns what comes out.
func (tn *testnet) watch(apply func(*agent.NetworkState) error) <-chan *agent.NetworkState {
	tn.t.Helper()
	states := make(chan *agent.NetworkState, 100)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- tn.net.Watch(ctx, func(s *agent.NetworkState) error {
			if err := apply(s); err != nil {
				return err
			}
			states <- s
			return nil
		})
	}()
	tn.t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				tn.t.Error(err)
			}
		case <-time.After(10 * time.Second):
			tn.t.Error("Watch did not end")
		}
	})
	return states
}

// await waits for a state that fits.
func (tn *testnet) await(what string, states <-chan *agent.NetworkState, fits func(*agent.NetworkState) bool) *agent.NetworkState {
	tn.t.Helper()
	limit := time.After(10 * time.Second)
	for {
		select {
		case s := <-states:
			if fits(s) {
				return s
			}
		case <-limit:
			tn.t.Fatalf("no state after: %s", what)
		}
	}
}

func names(s *agent.NetworkState) (out string) {
	for _, i := range s.Interfaces {
		out += i.Name + " "
	}
	return out
}

func (tn *testnet) disconnect(name string) {
	tn.t.Helper()
	tn.must(tn.inner.Do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetDown(l), netlink.LinkDel(l))
	}))
}

func TestConnectAndDisconnect(t *testing.T) {
	tn := newTestnet(t)
	tn.dualStack()
	first := tn.wire()
	states := tn.watch(tn.apply)
	echo(t, tn.outer, "172.30.0.1:7000")

	tn.connect("eth1", "veth1", 1500, []string{"172.31.0.2/16"}, []string{"172.31.0.1/16"})
	tn.route(tn.inner, "", "172.31.0.1", "eth1")
	tn.await("connect", states, func(s *agent.NetworkState) bool {
		if names(s) != "eth0 eth1 " {
			return false
		}
		for _, r := range s.Routes {
			// The default route moved.
			if r.Destination == "" && !r.Ipv6 {
				return r.Interface == "eth1"
			}
		}
		return false
	})
	echo(t, tn.outer, "172.31.0.1:7000")
	tn.talks("first network", tn.guest, "tcp", "172.30.0.1:7000", 1<<20)
	tn.talks("second network", tn.guest, "tcp", "172.31.0.1:7000", 1<<20)

	tn.disconnect("eth0")
	tn.await("disconnect", states, func(s *agent.NetworkState) bool { return names(s) == "eth1 " })
	tn.talks("second network", tn.guest, "tcp", "172.31.0.1:7000", 1<<20)

	// Anew, with another index and another MAC.
	tn.connect("eth0", "veth2", 1500, []string{"172.30.0.2/16"}, []string{"172.30.0.1/16"})
	last := tn.await("reconnect", states, func(s *agent.NetworkState) bool {
		return names(s) == "eth1 eth0 " && len(s.Interfaces[1].Addresses) == 1
	})
	if bytes.Equal(last.Interfaces[1].Mac, first.Interfaces[0].Mac) {
		t.Error("the state has the old MAC")
	}
	if !bytes.Equal(last.Interfaces[1].DeviceMac, first.Interfaces[0].DeviceMac) {
		t.Error("the free NIC was not used again")
	}
	tn.talks("first network again", tn.guest, "tcp", "172.30.0.1:7000", 1<<20)
	// And the namespace's own way is there too.
	tn.talks("namespace", tn.inner, "udp", "172.30.0.1:7000", 100)

	tn.disconnect("eth0")
	tn.disconnect("eth1")
	tn.await("last disconnect", states, func(s *agent.NetworkState) bool { return len(s.Interfaces) == 0 })
	if tables := tablesOf(t, tn.inner); len(tables) != 0 {
		t.Errorf("tables: %v", tables)
	}
}

// TestLinkThatWentAndCameBack keeps its index, but not its hooks.
func TestLinkThatWentAndCameBack(t *testing.T) {
	tn := newTestnet(t)
	tn.dualStack()
	tn.wire()
	states := tn.watch(tn.apply)
	echo(t, tn.outer, "172.30.0.1:7000")
	tn.talks("before", tn.guest, "udp", "172.30.0.1:7000", 100)
	tn.talks("before", tn.inner, "udp", "172.30.0.1:7000", 100)

	move := func(from, to *Namespace) {
		tn.must(from.Do(func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return netlink.LinkSetNsFd(l, to.Fd())
		}))
	}
	spare := newNamespace(t)
	// The lock keeps Watch from seeing that the link is away.
	tn.net.mu.Lock()
	move(tn.inner, spare)
	move(spare, tn.inner)
	tn.must(tn.inner.Do(func() error {
		return errors.Join(address("eth0", []string{"172.30.0.2/16"}), awaitUp("eth0"))
	}))
	tn.net.mu.Unlock()
	// IPv6 and the default routes went with the move, so there is news.
	tn.await("the move", states, func(s *agent.NetworkState) bool {
		return names(s) == "eth0 " && len(s.Interfaces[0].Addresses) == 1
	})
	// Newer kernels hook the link again by its name, older ones do not: the
	// rules must be new ones, which remember nothing.
	if n := tn.ownConnections(); n != 0 {
		t.Errorf("%d connections are remembered: the rules were not loaded anew", n)
	}
	tn.talks("after", tn.guest, "udp", "172.30.0.1:7000", 100)
}

func TestWatchTriesAgain(t *testing.T) {
	tn := newTestnet(t)
	tn.dualStack()
	tn.wire()
	var calls atomic.Int32
	states := tn.watch(func(s *agent.NetworkState) error {
		if calls.Add(1) == 1 {
			return errors.New("the guest is busy")
		}
		return tn.apply(s)
	})
	tn.must(tn.inner.Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, 1300)
	}))
	tn.await("a second try", states, func(s *agent.NetworkState) bool { return s.Interfaces[0].Mtu == 1300 })
	if calls.Load() != 2 {
		t.Errorf("%d calls", calls.Load())
	}
}

func TestWatchIsSilentWithoutNews(t *testing.T) {
	tn := newTestnet(t)
	tn.dualStack()
	tn.wire()
	states := tn.watch(tn.apply)
	tn.must(tn.inner.Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 3), Mask: net.CIDRMask(32, 32)}}
		return errors.Join(netlink.AddrAdd(l, addr), netlink.AddrDel(l, addr))
	}))
	select {
	case s := <-states:
		// Both changes within one quiet time leave nothing to tell; a slow
		// machine may see the first.
		t.Logf("saw %v", s)
	case <-time.After(5 * quiet):
	}
}

func TestSettleIsBounded(t *testing.T) {
	changed := make(chan struct{}, 1)
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case changed <- struct{}{}:
			case <-stop:
				return
			}
		}
	}()
	defer close(stop)
	begun := time.Now()
	if !settle(t.Context(), changed) {
		t.Error("ctx had not ended")
	}
	if took := time.Since(begun); took < patience || took > 10*patience {
		t.Errorf("took %v", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if settle(ctx, make(chan struct{})) {
		t.Error("ctx had ended")
	}
}
