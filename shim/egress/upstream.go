package egress

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/nanoclaw/nanoclaw/api/stream"
	"github.com/nanoclaw/nanoclaw/shim/network"
)

const (
	// serverTime is how long one name server may take.
	serverTime = 4 * time.Second
	// maxRemembered bounds the names whose addresses are remembered.
	maxRemembered = 4096
	// noneTime is how long it is remembered that a name has no address.
	noneTime = 2 * time.Second
)

// errNoServer is a container whose name servers may not be asked.
var errNoServer = errors.New("none of the container's name servers may be asked: it has to be the engine's, one of the host's, or one that the rules allow at port 53")

// upstream asks the name servers that a container has.
type upstream struct {
	ns    *network.Namespace
	judge *judge
	watch *watch
	// resolvConf is the container's resolv.conf, as it is now; hosts are the
	// host's own.
	resolvConf func() []byte
	hosts      []string
	// ask asks one server.
	ask func(ctx context.Context, server netip.Addr, m stream.DNSMessage) ([]byte, error)

	mu         sync.Mutex
	remembered map[string]remembered
}

type remembered struct {
	addresses
	until time.Time
}

// servers are the container's name servers, as far as they may be asked. The
// container can write its resolv.conf, so one is asked only if it is the
// engine's resolver, a name server of the host's, or reached anyway.
func (u *upstream) servers() (mine, ofHost []netip.Addr) {
	for _, path := range u.hosts {
		// A host without such a file has no server in it.
		content, _ := network.ReadResolvConf(path)
		ofHost = append(ofHost, network.NameServers(content)...)
	}
	mine = slices.DeleteFunc(network.NameServers(u.resolvConf()), func(a netip.Addr) bool { return !u.judge.server(a, ofHost) })
	return mine, ofHost
}

// exchange asks one server after the other, and returns the answer as it came,
// and the id that it bears.
func (u *upstream) exchange(ctx context.Context, q dnsmessage.Question, edns bool, transport stream.Transport) ([]byte, uint16, error) {
	var random [2]byte
	_, _ = rand.Read(random[:])
	id := binary.BigEndian.Uint16(random[:])
	m, err := anew(id, q, edns)
	if err != nil {
		return nil, 0, err
	}
	err = errNoServer
	servers, ofHost := u.servers()
	for _, server := range servers {
		u.watch.server(server, ofHost)
		ctx, cancel := context.WithTimeout(ctx, serverTime)
		var reply []byte
		reply, err = u.ask(ctx, server, stream.DNSMessage{Transport: transport, Message: m})
		cancel()
		if err == nil {
			return reply, id, nil
		}
	}
	return nil, 0, fmt.Errorf("ask for %s: %w", q.Name, err)
}

// resolve returns the addresses of a name.
func (u *upstream) resolve(ctx context.Context, name string) (addresses, error) {
	u.mu.Lock()
	known, ok := u.remembered[name]
	u.mu.Unlock()
	if ok && time.Now().Before(known.until) {
		return known.addresses, nil
	}
	n, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return addresses{}, err
	}
	q := dnsmessage.Question{Name: n, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	a, err := u.addresses(ctx, q, stream.UDP)
	if err == nil && a.truncated {
		a, err = u.addresses(ctx, q, stream.TCP)
	}
	if err != nil {
		return addresses{}, err
	}
	if len(a.addrs) == 0 {
		a.ttl = noneTime
	}
	u.remember(name, a)
	return a, nil
}

func (u *upstream) addresses(ctx context.Context, q dnsmessage.Question, transport stream.Transport) (addresses, error) {
	reply, id, err := u.exchange(ctx, q, false, transport)
	if err != nil {
		return addresses{}, err
	}
	return parseAddresses(reply, id, q)
}

func (u *upstream) remember(name string, a addresses) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.remembered) >= maxRemembered {
		// Any of them: it is asked for again.
		for other := range u.remembered {
			delete(u.remembered, other)
			break
		}
	}
	u.remembered[name] = remembered{a, time.Now().Add(a.ttl)}
}
