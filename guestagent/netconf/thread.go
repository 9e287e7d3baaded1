package netconf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"

	"golang.org/x/sys/unix"
)

// onThread runs f on a thread that ends with it, so that what f does to its
// thread's namespaces is nobody else's.
func onThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the runtime ends the thread with the goroutine.
		runtime.LockOSThread()
		result <- f()
	}()
	return <-result
}

// do runs f on a thread in the sandbox's namespace.
func (s *Sandbox) do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(s.insideNS), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the sandbox's network namespace: %w", err)
		}
		return f()
	})
}

// resolverAddress is where Docker's resolver is, as containers know it.
const resolverAddress = "127.0.0.11:53"

// sockets are those the resolver serves.
type sockets struct {
	udp net.PacketConn
	tcp net.Listener
}

func (s *Sandbox) applyDNSLocked(on bool) error {
	if !on {
		s.closeDNSLocked()
		return nil
	}
	if s.dns != nil {
		return nil
	}
	opened := &sockets{}
	err := s.do(func() error {
		var lc net.ListenConfig
		var err error
		if opened.udp, err = lc.ListenPacket(context.Background(), "udp4", resolverAddress); err != nil {
			return err
		}
		if opened.tcp, err = lc.Listen(context.Background(), "tcp4", resolverAddress); err != nil {
			return errors.Join(err, opened.udp.Close())
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("network: listen for DNS questions: %w", err)
	}
	s.dns = opened
	s.resolver.Serve(opened.udp, opened.tcp)
	return nil
}

func (s *Sandbox) closeDNSLocked() {
	if s.dns == nil {
		return
	}
	_ = s.dns.udp.Close()
	_ = s.dns.tcp.Close()
	s.dns = nil
}
