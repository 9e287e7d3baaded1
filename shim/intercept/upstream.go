package intercept

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strconv"
	"time"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/shim/audit"
)

// errOver is a connection that was asked for when it was not needed any more.
var errOver = errors.New("the container's connection has ended")

// client asks the real server. Whatever a request says, its connections lead to
// where dial leads, and the server has to prove that it is the one that the guest
// has connected to.
type client struct {
	// upgrading is for requests that ask for another protocol, which takes the
	// first version of HTTP.
	usual, upgrading *http.Transport
}

func (c *Conversation) client(ctx context.Context, dial Dial) client {
	usual := &http.Transport{
		DialContext: func(asked context.Context, _, _ string) (net.Conn, error) {
			if !c.enter() {
				return nil, errOver
			}
			defer c.busy.Done()
			asked, cancel := context.WithCancel(asked)
			defer cancel()
			defer context.AfterFunc(ctx, cancel)()
			conn, err := dial(asked)
			if err != nil {
				return nil, err
			}
			return &bound{Conn: conn, stop: context.AfterFunc(ctx, func() { _ = conn.Close() })}, nil
		},
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.host, RootCAs: c.owner.options.Roots},
		TLSHandshakeTimeout:    headTime,
		DisableCompression:     true,
		MaxIdleConns:           maxIdle,
		IdleConnTimeout:        idleTime,
		MaxResponseHeaderBytes: maxAnswerHead,
		HTTP2:                  &http.HTTP2Config{MaxReceiveBufferPerConnection: 4 * maxReceived, MaxReceiveBufferPerStream: maxReceived},
	}
	upgrading := usual.Clone()
	usual.ForceAttemptHTTP2 = true
	return client{usual, upgrading}
}

func (c client) RoundTrip(r *http.Request) (*http.Response, error) {
	if len(r.Header["Upgrade"]) > 0 {
		return c.upgrading.RoundTrip(r)
	}
	return c.usual.RoundTrip(r)
}

func (c client) close() {
	c.usual.CloseIdleConnections()
	c.upgrading.CloseIdleConnections()
}

// bound is a connection that ends with what it is for.
type bound struct {
	net.Conn
	stop func() bool
}

func (b *bound) Close() error {
	b.stop()
	return b.Conn.Close()
}

// reverseProxy passes requests on with the secrets that they name, and answers
// back without them.
func (c *Conversation) reverseProxy(t client) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite:        c.rewrite,
		Transport:      t,
		FlushInterval:  -1,
		ErrorLog:       silent,
		ModifyResponse: func(r *http.Response) error { return c.owner.checks.scrub(c, r) },
		ErrorHandler:   c.failed,
	}
}

func (c *Conversation) rewrite(p *httputil.ProxyRequest) {
	p.Out.URL.Scheme, p.Out.URL.Host = c.scheme(), net.JoinHostPort(c.host, strconv.Itoa(int(c.port)))
	// It is the guest's own request, to be passed on as it is.
	p.Out.URL.RawQuery = p.In.URL.RawQuery
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if fields, ok := p.In.Header[name]; ok {
			p.Out.Header[name] = slices.Clone(fields)
		}
	}
	used := put(p.Out, c.values)
	for _, name := range used {
		c.secret(name, "used", audit.Allow, p.In, "")
	}
	if len(used) > 0 {
		// What comes back compressed could not be looked into.
		p.Out.Header.Set("Accept-Encoding", "identity")
	}
}

// noteMisuse records where a request has a placeholder that stands for nothing
// here.
func (c *Conversation) noteMisuse(r *http.Request) {
	for _, s := range c.owner.options.Secrets {
		here := slices.ContainsFunc(c.values, func(v value) bool { return v.placeholder == s.Placeholder })
		if !here && mentions(r, s.Placeholder) {
			c.secret(s.Env, "misused", audit.Deny, r, "it is not for this host, which was sent what stands for it")
		}
	}
}

// failed is told of a request that got no answer.
func (c *Conversation) failed(w http.ResponseWriter, r *http.Request, err error) {
	v := annotations.Verdict{Rule: "network", Origin: annotations.Origin{Layer: annotations.LayerBaseline}, Why: "the server does not answer: " + err.Error()}
	var wrong *tls.CertificateVerificationError
	if errors.As(err, &wrong) {
		v.Decision, v.Why = annotations.DecisionDeny, "the server does not prove that it is "+c.host+": "+wrong.Err.Error()
		if c.owner.uses.due("certificate "+c.host, time.Now()) {
			c.refused(v, r)
		}
	}
	// With another connection of the guest's the server is looked for again.
	w.Header().Set("Connection", "close")
	answer(w, http.StatusBadGateway, v)
}
