package network

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// link is an interface that is up, other than loopback.
type link struct {
	index int
	name  string
	mac   net.HardwareAddr
	mtu   int
	// kind is the driver, such as veth.
	kind     string
	ethernet bool
	// settings are what is set for it alone.
	settings map[string]string
}

// view is one consistent reading of a namespace.
type view struct {
	links  []link
	addrs  []netlink.Addr
	routes []netlink.Route
}

// readTries bounds how often a reading is repeated that the kernel reports as
// interrupted by a change.
const readTries = 10

func readView(ns *Namespace) (view, error) {
	var v view
	err := ns.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		for range readTries {
			v, err = readOnce(h)
			if !errors.Is(err, netlink.ErrDumpInterrupted) {
				break
			}
		}
		return err
	})
	return v, err
}

func readOnce(h *netlink.Handle) (view, error) {
	var v view
	links, err := h.LinkList()
	if err != nil {
		return view{}, fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		a := l.Attrs()
		// A link that is down serves nobody: kernels put unused tunnel devices
		// into every namespace, and a manager that connects or disconnects a
		// network has a link down that it is still, or no longer, at work on.
		if a.Flags&net.FlagUp == 0 || a.Flags&net.FlagLoopback != 0 {
			continue
		}
		v.links = append(v.links, link{
			index:    a.Index,
			name:     a.Name,
			mac:      a.HardwareAddr,
			mtu:      a.MTU,
			kind:     l.Type(),
			ethernet: a.EncapType == "ether" && len(a.HardwareAddr) == 6,
			settings: readSettings(a.Name),
		})
	}
	if v.addrs, err = h.AddrList(nil, netlink.FAMILY_ALL); err != nil {
		return view{}, fmt.Errorf("list addresses: %w", err)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return view{}, fmt.Errorf("list routes: %w", err)
		}
		v.routes = append(v.routes, routes...)
	}
	return v, nil
}

// linkUp sets a link's MTU, brings it up and returns its index and its address.
// It acts in the calling thread's namespace.
func linkUp(name string, mtu int) (int, net.HardwareAddr, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return 0, nil, fmt.Errorf("find %s: %w", name, err)
	}
	if err := netlink.LinkSetMTU(l, mtu); err != nil {
		return 0, nil, fmt.Errorf("set the MTU of %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return 0, nil, fmt.Errorf("bring %s up: %w", name, err)
	}
	return l.Attrs().Index, l.Attrs().HardwareAddr, nil
}

func loopbackUp() error {
	l, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}
