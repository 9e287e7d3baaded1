package netconf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	nfnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// resolverAddress is where Docker's resolver is, as containers know it.
var resolverAddress = netip.MustParseAddrPort("127.0.0.11:53")

// resolverTable is our table in the sandbox, with nothing else in it.
const resolverTable = "nanoclaw-resolver"

// netfilterTimeout bounds the exchange with the kernel.
const netfilterTimeout = 5 * time.Second

// sockets are those the resolver serves. They have any port, as Docker's own
// have, and questions to port 53 are led to them: a container that serves names
// itself, on port 53 of every address, must find it free.
type sockets struct {
	udp net.PacketConn
	tcp net.Listener
}

func (s *Sandbox) applyDNSLocked(on bool) error {
	if !on {
		return s.closeDNSLocked()
	}
	if s.dns != nil {
		return nil
	}
	opened, err := s.listenDNS()
	if err != nil {
		return fmt.Errorf("network: listen for DNS questions: %w", err)
	}
	if err := s.leadQuestions(opened); err != nil {
		return errors.Join(fmt.Errorf("network: lead DNS questions to the resolver: %w", err), opened.close())
	}
	s.dns = opened
	s.resolver.Serve(opened.udp, opened.tcp)
	return nil
}

func (s *Sandbox) listenDNS() (*sockets, error) {
	opened := &sockets{}
	anyPort := netip.AddrPortFrom(resolverAddress.Addr(), 0).String()
	err := s.do(func() error {
		var lc net.ListenConfig
		var err error
		if opened.udp, err = lc.ListenPacket(context.Background(), "udp4", anyPort); err != nil {
			return err
		}
		if opened.tcp, err = lc.Listen(context.Background(), "tcp4", anyPort); err != nil {
			return errors.Join(err, opened.udp.Close())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return opened, nil
}

func (o *sockets) close() error { return errors.Join(o.udp.Close(), o.tcp.Close()) }

func (s *Sandbox) closeDNSLocked() error {
	if s.dns == nil {
		return nil
	}
	err := errors.Join(s.dns.close(), s.transact(func(c *nftables.Conn) {
		t := newResolverTable()
		c.AddTable(t)
		c.DelTable(t)
	}))
	s.dns = nil
	return err
}

// leadQuestions loads the rules that turn what the sandbox sends to the
// resolver's address to the sockets.
func (s *Sandbox) leadQuestions(to *sockets) error {
	udp, err := netip.ParseAddrPort(to.udp.LocalAddr().String())
	if err != nil {
		return err
	}
	tcp, err := netip.ParseAddrPort(to.tcp.Addr().String())
	if err != nil {
		return err
	}
	return s.transact(func(c *nftables.Conn) {
		// Deleting a table that is not there is an error, so it is made first.
		t := newResolverTable()
		c.AddTable(t)
		c.DelTable(t)
		c.AddTable(t)
		chain := c.AddChain(&nftables.Chain{
			Name: "output", Table: t, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
		})
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: questionsTo(unix.IPPROTO_UDP, udp)})
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: questionsTo(unix.IPPROTO_TCP, tcp)})
	})
}

func newResolverTable() *nftables.Table {
	return &nftables.Table{Name: resolverTable, Family: nftables.TableFamilyIPv4}
}

// questionsTo is the rule for one transport.
func questionsTo(transport byte, socket netip.AddrPort) []expr.Any {
	const reg, port = unix.NFT_REG_1, unix.NFT_REG_2
	resolver := resolverAddress.Addr().As4()
	own := socket.Addr().As4()
	equal := func(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: data} }
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
		equal([]byte{transport}),
		// The destination's address in the IPv4 header, and its port.
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		equal(resolver[:]),
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		equal(binaryutil.BigEndian.PutUint16(resolverAddress.Port())),
		&expr.Immediate{Register: reg, Data: own[:]},
		&expr.Immediate{Register: port, Data: binaryutil.BigEndian.PutUint16(socket.Port())},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg, RegProtoMin: port},
	}
}

// transact sends what fill queues to the sandbox's netfilter, all or nothing.
func (s *Sandbox) transact(fill func(*nftables.Conn)) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(s.insideNS)), nftables.WithSockOptions(func(c *nfnetlink.Conn) error {
		return c.SetDeadline(time.Now().Add(netfilterTimeout))
	}))
	if err != nil {
		return err
	}
	fill(c)
	return c.Flush()
}
