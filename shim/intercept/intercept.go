package intercept

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/containerd/log"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/annotations/pattern"
	"github.com/nanoclaw/nanoclaw/shim/audit"
)

const (
	// maxConns bounds the connections that are answered here at a time, maxRequests
	// the requests on all of them.
	maxConns    = 256
	maxRequests = 512
	// placeholderPrefix is what a placeholder begins with, so that a person who
	// sees one knows what it is.
	placeholderPrefix = "nanoclaw-secret-"
)

// Secret is a value that is put into requests to certain hosts.
type Secret struct {
	annotations.Secret
	// Placeholder is what the container has in its place.
	Placeholder string
	// Read returns the value as it is now. It is called for each connection, so
	// that a value can be replaced while the container runs.
	Read func() (string, error)
}

// Readonly is an endpoint that may be read and not written to. With Would, what
// writes is only recorded.
type Readonly struct {
	annotations.EndpointRule
	Would bool
}

// NewPlaceholder returns what a secret has in the container.
func NewPlaceholder() string {
	var random [16]byte
	_, _ = rand.Read(random[:])
	return placeholderPrefix + hex.EncodeToString(random[:])
}

// Options describe an Interceptor.
type Options struct {
	Secrets  []Secret
	Readonly []Readonly
	// Roots are the authorities whose certificates a server may have.
	Roots *x509.CertPool
	// Post takes records. It must not block.
	Post func(audit.Entry)
}

// Interceptor speaks for servers with one VM.
type Interceptor struct {
	options   Options
	authority *authority
	checks    checks
	uses      uses
	conns     chan struct{}
	requests  chan struct{}
}

// New makes an Interceptor, with an authority of its own.
func New(o Options) (*Interceptor, error) {
	a, err := newAuthority(time.Now())
	if err != nil {
		return nil, err
	}
	return &Interceptor{
		options: o, authority: a, checks: allChecks,
		conns: make(chan struct{}, maxConns), requests: make(chan struct{}, maxRequests),
	}, nil
}

// checks are what keeps a guest that has been taken over to the rules. Tests take
// one away and see it get through.
type checks struct {
	// name compares the name that the guest says in TLS, host the one that a
	// request says.
	name func(c *Conversation, said string) bool
	host func(c *Conversation, said string) bool
	// writes says why a request may change something.
	writes func(*http.Request) string
	// scrub takes values out of an answer.
	scrub func(*Conversation, *http.Response) error
}

var allChecks = checks{(*Conversation).isNamed, (*Conversation).isFor, writes, (*Conversation).scrub}

// Certificate is what the VM has to trust, as PEM.
func (i *Interceptor) Certificate() []byte { return i.authority.pem() }

// Knows reports whether connections to a name may be answered here, at any port.
// Such a name must not be known to the guest by its true address.
func (i *Interceptor) Knows(name string) bool {
	if i == nil {
		return false
	}
	at := func(e pattern.Endpoint) bool { return e.Match(name, e.Port) }
	return slices.ContainsFunc(i.options.Readonly, func(r Readonly) bool { return at(r.Endpoint) }) ||
		slices.ContainsFunc(i.options.Secrets, func(s Secret) bool { return slices.ContainsFunc(s.Hosts, at) })
}

// Unjudged are the endpoints that may only be read, to which nothing can go that
// is not looked into.
func (i *Interceptor) Unjudged() []annotations.EndpointRule {
	if i == nil {
		return nil
	}
	var all []annotations.EndpointRule
	for _, r := range i.options.Readonly {
		if !r.Would {
			all = append(all, r.EndpointRule)
		}
	}
	return all
}

// For returns how a connection is to be answered that leads to a host, a name or
// an address, and there to one of the addresses; nil: it is not answered here.
func (i *Interceptor) For(host string, port uint16, addrs []netip.Addr) *Conversation {
	if i == nil {
		return nil
	}
	c := &Conversation{owner: i, host: host, port: port}
	for _, s := range i.options.Secrets {
		if slices.ContainsFunc(s.Hosts, func(e pattern.Endpoint) bool { return e.Match(host, port) }) {
			c.secrets = append(c.secrets, s)
		}
	}
	for _, r := range i.options.Readonly {
		// Whoever owns another name can have it lead to the same address.
		if r.Endpoint.Match(host, port) || slices.ContainsFunc(addrs, func(a netip.Addr) bool { return r.Endpoint.Match(a.String(), port) }) {
			c.readonly = append(c.readonly, r)
		}
	}
	if len(c.secrets)+len(c.readonly) == 0 {
		return nil
	}
	return c
}

// Conversation is one connection that is answered here. It is used once.
type Conversation struct {
	owner    *Interceptor
	host     string
	port     uint16
	secrets  []Secret
	readonly []Readonly
	// tls is whether the guest speaks TLS.
	tls bool
	// values are of those secrets that could be read.
	values []value
	proxy  *httputil.ReverseProxy

	mu    sync.Mutex
	ended bool
	// busy counts what may use the way to the server.
	busy sync.WaitGroup
}

// Dial makes a connection to the server, to an address that was judged.
type Dial func(context.Context) (net.Conn, error)

// value is a secret as it is put into the requests of one connection.
type value struct {
	name, placeholder, value string
	// missing is set where it could not be read.
	missing bool
}

// Serve answers a connection until it ends. It leaves it open only where it
// returns pass: then it is none of those that have to be answered here, and
// what was read of it is first.
func (c *Conversation) Serve(ctx context.Context, conn net.Conn, dial Dial) (first []byte, pass bool) {
	select {
	case c.owner.conns <- struct{}{}:
		defer func() { <-c.owner.conns }()
	default:
		c.refused(baselineVerdict("there are too many connections that have to be looked into"), nil)
		reset(conn)
		return nil, false
	}
	kind, first, err := begin(conn)
	switch {
	case err != nil:
		reset(conn)
		return nil, false
	case kind == speaksTLS:
		c.tls = true
	case len(c.readonly) == 0:
		// No secret is put into what is not TLS.
		return first, true
	case kind != speaksHTTP:
		const why = "it is neither HTTP nor TLS, so nobody can say whether it only reads"
		if c.mayOnlyRead(nil, why) == nil {
			return first, true
		}
		reset(conn)
		return nil, false
	}
	if c.tls {
		c.readValues(ctx)
	}
	c.converse(ctx, &replayed{Conn: conn, first: first}, dial)
	return nil, false
}

// readValues reads the secrets that may be put in. What cannot be read is
// missing where it is asked for.
func (c *Conversation) readValues(ctx context.Context) {
	for _, s := range c.secrets {
		v := value{name: s.Env, placeholder: s.Placeholder}
		var err error
		if v.value, err = s.Read(); err != nil {
			v.missing = true
			log.G(ctx).WithError(err).WithField("secret", s.Env).Error("a secret cannot be read any more; requests with it fail")
		}
		c.values = append(c.values, v)
	}
}

// enter claims the right to use the way to the server; false: it is over.
func (c *Conversation) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false
	}
	c.busy.Add(1)
	return true
}

// end waits until nothing uses that way any more, and sees that nothing will.
func (c *Conversation) end() {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.busy.Wait()
}
