package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/containerd/log"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

const (
	// quiet is how long nothing may change before the namespace is read anew:
	// connecting a network is a burst of a dozen changes within 10 ms.
	quiet = 30 * time.Millisecond
	// patience bounds the wait for quiet.
	patience = 300 * time.Millisecond
	// retryMin and retryMax bound the pause before what failed is tried again.
	retryMin = time.Second
	retryMax = 30 * time.Second
)

// Watch follows the namespace until ctx ends: whenever interfaces, addresses
// or routes changed it wires them and hands apply the whole state that the
// guest shall have, which is never nil. It starts from what the last Wire
// returned. What fails is logged and tried again, because the container runs
// on; only a failure to watch at all is returned.
func (n *Network) Watch(ctx context.Context, apply func(*agent.NetworkState) error) error {
	events, err := subscribe(n.ns)
	if err != nil {
		return fmt.Errorf("watch the container's network: %w", err)
	}
	changed := make(chan struct{}, 1)
	// The first reading is for what changed between Wire and now.
	changed <- struct{}{}
	stopped := make(chan error, 1)
	go func() {
		stopped <- receive(events, func(unhooked bool) {
			if unhooked {
				n.unhooked.Store(true)
			}
			notify(changed)
		})
	}()
	// Closing it ends receive.
	defer func() { _ = events.Close() }()

	retry := retryMin
	for {
		if !settle(ctx, changed) {
			return nil
		}
		err := n.follow(ctx, apply)
		select {
		case err := <-stopped:
			return fmt.Errorf("watch the container's network: %w", err)
		default:
		}
		if err == nil || ctx.Err() != nil {
			retry = retryMin
			continue
		}
		log.G(ctx).WithError(err).Warn("the container's network changed and the VM's could not follow; trying again")
		timer := time.AfterFunc(retry, func() { notify(changed) })
		defer timer.Stop()
		retry = min(2*retry, retryMax)
	}
}

// follow wires what the namespace has become, and tells the guest if that is
// anything new.
func (n *Network) follow(ctx context.Context, apply func(*agent.NetworkState) error) error {
	n.mu.Lock()
	before := n.last
	_, err := n.wire(ctx)
	state := n.last
	n.mu.Unlock()
	if err != nil {
		return err
	}
	if proto.Equal(before, state) {
		return nil
	}
	// Not under the lock: apply asks the guest.
	if err := apply(proto.CloneOf(state)); err != nil {
		n.mu.Lock()
		// The guest does not have it; the next reading is news again.
		n.last = before
		n.mu.Unlock()
		return err
	}
	return nil
}

// settle waits for a change and then for quiet. It reports false when ctx has
// ended.
func settle(ctx context.Context, changed <-chan struct{}) bool {
	select {
	case <-changed:
	case <-ctx.Done():
		return false
	}
	limit := time.After(patience)
	for {
		select {
		case <-changed:
		case <-time.After(quiet):
			return true
		case <-limit:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

func notify(changed chan<- struct{}) {
	select {
	case changed <- struct{}{}:
	default:
	}
}

// subscribe opens a socket on which the kernel tells of every change of links,
// addresses and routes in the namespace.
func subscribe(ns *Namespace) (*os.File, error) {
	var f *os.File
	err := ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		err = unix.Bind(fd, &unix.SockaddrNetlink{
			Family: unix.AF_NETLINK,
			Groups: unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE,
		})
		if err != nil {
			return errors.Join(os.NewSyscallError("bind", err), unix.Close(fd))
		}
		f = os.NewFile(uintptr(fd), "netlink")
		return nil
	})
	return f, err
}

// receive turns messages into calls of notice until the socket fails or is
// closed. What counts is what is there afterwards, so it looks at one thing
// only: a link that went has taken its hooks along, also if it came back since.
func receive(events *os.File, notice func(unhooked bool)) error {
	buf := make([]byte, 32<<10)
	for {
		size, err := events.Read(buf)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			// Messages were lost; they may have told of anything.
			notice(true)
		case err != nil:
			notice(false)
			return err
		default:
			notice(tellsOfDeletedLink(buf[:size]))
		}
	}
}

// tellsOfDeletedLink looks through messages of the kernel's.
func tellsOfDeletedLink(messages []byte) bool {
	parsed, err := syscall.ParseNetlinkMessage(messages)
	if err != nil {
		return true
	}
	return slices.ContainsFunc(parsed, func(m syscall.NetlinkMessage) bool {
		return m.Header.Type == unix.RTM_DELLINK
	})
}
