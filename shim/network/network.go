package network

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/hypervisor"
	"google.golang.org/protobuf/proto"
)

// maxInterfaces bounds the devices of one VM. A PCI bus has 32 slots, and the
// VM needs some of them for itself.
const maxInterfaces = 16

// Plugger adds a NIC to a running VM.
type Plugger interface {
	AddNIC(ctx context.Context, n hypervisor.NIC) error
}

// Network is the network of one VM. Its methods are safe for concurrent use.
type Network struct {
	ns    *Namespace
	relay func() bool
	// gateway is nil where frames pass unchanged.
	gateway *passage

	mu sync.Mutex
	vm Plugger
	// taps are all that were made; bound says which interface each serves.
	taps   []*tap
	bound  []binding
	loaded bool
	closed bool
	last   *agent.NetworkState

	// unhooked says that the kernel may have dropped a part of the rules.
	unhooked atomic.Bool
}

// binding is an interface of the namespace and the tap that its frames go to.
type binding struct {
	link link
	tap  *tap
}

// New returns the network of a VM in ns, which stays the caller's and must be
// open until Close has returned. relayDNS is asked each time the network is
// read whether the guest shall answer on 127.0.0.11 (see
// ResolvConfNeedsRelay); nil means never.
func New(ns *Namespace, relayDNS func() bool) *Network {
	if relayDNS == nil {
		relayDNS = func() bool { return false }
	}
	return &Network{ns: ns, relay: relayDNS}
}

// NewNIC makes a NIC for a VM that has yet to boot. It is wired to nothing
// until Wire.
func (n *Network) NewNIC() (hypervisor.NIC, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	t, err := n.addTap()
	if err != nil {
		return hypervisor.NIC{}, err
	}
	return t.nic(), nil
}

func (n *Network) addTap() (*tap, error) {
	if n.closed {
		return nil, errClosed
	}
	if len(n.taps) >= maxInterfaces {
		return nil, fmt.Errorf("a container has at most %d network interfaces", maxInterfaces)
	}
	t, err := newTap(n.ns, len(n.taps))
	if err != nil {
		return nil, err
	}
	if n.gateway != nil {
		// From its first moment on: there is no time at which the guest could
		// speak to the namespace itself.
		n.loaded = true
		if err := shutTap(n.ns, t); err != nil {
			return nil, errors.Join(fmt.Errorf("shut the VM's NIC: %w", err), CheckGateway(), t.release())
		}
	}
	n.taps = append(n.taps, t)
	return t, nil
}

var errClosed = errors.New("the network was closed")

// Booted says that vm has taken over the NICs made so far: their descriptors
// are closed here, and NICs that are needed later are added to vm.
func (n *Network) Booted(vm Plugger) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.vm = vm
	var errs []error
	for _, t := range n.taps {
		errs = append(errs, t.release())
	}
	return errors.Join(errs...)
}

// Wire reads what the namespace has become, joins each interface to a NIC of
// the VM and returns what the guest shall configure: nil where there is
// nothing, as with --network none. It may be called again and then follows
// what changed.
func (n *Network) Wire(ctx context.Context) (*agent.NetworkState, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.wire(ctx)
}

func (n *Network) wire(ctx context.Context) (*agent.NetworkState, error) {
	if n.closed {
		return nil, errClosed
	}
	v, err := readView(n.ns)
	if err != nil {
		return nil, fmt.Errorf("read the container's network: %w", err)
	}
	links, err := n.foreign(v.links)
	if err != nil {
		return nil, err
	}
	bound, err := n.bind(ctx, links)
	if err != nil {
		return nil, err
	}
	state, err := n.join(v, bound)
	if err != nil {
		return nil, err
	}
	n.last = proto.CloneOf(state)
	if len(state.Interfaces) == 0 && !state.RelayDns {
		return nil, nil
	}
	return state, nil
}

// join loads the rules for the bindings, and returns what the guest shall have.
func (n *Network) join(v view, bound []binding) (*agent.NetworkState, error) {
	if n.gateway == nil {
		if err := n.load(bound); err != nil {
			return nil, err
		}
		state, err := v.state(bound)
		if err != nil {
			return nil, err
		}
		state.RelayDns = n.relay()
		return state, nil
	}
	c, err := n.cross(v, bound)
	if err != nil {
		return nil, err
	}
	if n.gateway.Closed {
		return &agent.NetworkState{}, nil
	}
	state, err := v.gatewayState(c)
	if err != nil {
		return nil, err
	}
	state.RelayDns = n.relay()
	return state, nil
}

// foreign returns the links that are to be joined: all but our own taps.
func (n *Network) foreign(links []link) ([]link, error) {
	var out []link
	for _, l := range links {
		if slices.ContainsFunc(n.taps, func(t *tap) bool { return t.index == l.index }) {
			continue
		}
		if !l.ethernet {
			return nil, fmt.Errorf("interface %s (%s) carries no Ethernet frames and cannot be joined to a VM", l.name, l.kind)
		}
		out = append(out, l)
	}
	return out, nil
}

// bind gives each link a tap: the one it has, else the one that a link of its
// name had, else a free one, else a new one.
func (n *Network) bind(ctx context.Context, links []link) ([]binding, error) {
	taken := map[*tap]bool{}
	bound := make([]binding, len(links))
	take := func(i int, t *tap) {
		bound[i] = binding{links[i], t}
		taken[t] = true
	}
	for i, l := range links {
		for _, b := range n.bound {
			if b.link.index == l.index && !taken[b.tap] {
				take(i, b.tap)
			}
		}
	}
	for i, l := range links {
		for _, b := range n.bound {
			if bound[i].tap == nil && b.link.name == l.name && !taken[b.tap] {
				take(i, b.tap)
			}
		}
	}
	for i := range links {
		if bound[i].tap != nil {
			continue
		}
		if free := slices.IndexFunc(n.taps, func(t *tap) bool { return !taken[t] && !n.used(t) }); free >= 0 {
			take(i, n.taps[free])
			continue
		}
		if free := slices.IndexFunc(n.taps, func(t *tap) bool { return !taken[t] }); free >= 0 {
			take(i, n.taps[free])
			continue
		}
		t, err := n.plug(ctx)
		if err != nil {
			return nil, fmt.Errorf("add a NIC for interface %s: %w", links[i].name, err)
		}
		take(i, t)
	}
	return bound, nil
}

// used reports whether t serves a link.
func (n *Network) used(t *tap) bool {
	return slices.ContainsFunc(n.bound, func(b binding) bool { return b.tap == t })
}

// plug makes a NIC and adds it to the running VM.
func (n *Network) plug(ctx context.Context) (*tap, error) {
	if n.vm == nil {
		return nil, errors.New("the VM has too few NICs and was not booted yet")
	}
	t, err := n.addTap()
	if err != nil {
		return nil, err
	}
	if err := n.vm.AddNIC(ctx, t.nic()); err != nil {
		n.taps = n.taps[:len(n.taps)-1]
		return nil, errors.Join(err, t.release())
	}
	return t, t.release()
}

// load brings the kernel's rules to bound. Rules that are right are left
// alone: loading them anew forgets which connections the namespace opened.
func (n *Network) load(bound []binding) error {
	unhooked := n.unhooked.Swap(false)
	if !unhooked && slices.EqualFunc(n.bound, bound, func(a, b binding) bool {
		return a.tap == b.tap && a.link.index == b.link.index && a.link.name == b.link.name
	}) {
		return nil
	}
	if len(bound) == 0 {
		if err := n.unload(); err != nil {
			return err
		}
		n.bound = nil
		return nil
	}
	if err := loadRules(n.ns, bound); err != nil {
		n.unhooked.Store(unhooked)
		// The kernel says only "no such file or directory" for a module that
		// it lacks.
		return errors.Join(err, Check())
	}
	n.loaded = true
	n.bound = bound
	return nil
}

func (n *Network) unload() error {
	if !n.loaded {
		return nil
	}
	unload := func() error { return unloadRules(n.ns) }
	if n.gateway != nil {
		unload = n.uncross
	}
	if err := unload(); err != nil {
		return err
	}
	n.loaded = false
	return nil
}

// Close takes the rules out of the namespace, which may outlive the container,
// and closes what the VM has not taken over. It does not close the namespace.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	errs := []error{n.unload()}
	for _, t := range n.taps {
		errs = append(errs, t.release())
	}
	return errors.Join(errs...)
}
