package intercept

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/shim/audit"
)

const (
	// headTime bounds the time for a request's head and for the TLS handshake,
	// idleTime how long a connection may be without a request.
	headTime = 30 * time.Second
	idleTime = 3 * time.Minute
	// maxHead bounds the head of a request, maxAnswerHead that of an answer.
	maxHead       = 128 << 10
	maxAnswerHead = 512 << 10
	// maxStreams bounds the requests at a time on one connection.
	maxStreams = 64
	// maxReceived bounds what is received ahead, on a connection of many requests.
	maxReceived = 1 << 20
	// maxIdle is how many connections to the server are kept for further requests.
	maxIdle = 4
)

// converse is the server that the guest speaks to, and the client of the real
// one.
func (c *Conversation) converse(ctx context.Context, conn net.Conn, dial Dial) {
	ctx, cancel := context.WithCancel(ctx)
	client := c.client(ctx, dial)
	c.proxy = c.reverseProxy(client)
	l := newOneConn(conn)
	server := &http.Server{
		Handler:           c,
		ReadHeaderTimeout: headTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHead,
		ErrorLog:          silent,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerConnection: maxReceived, MaxReceiveBufferPerStream: maxReceived,
		},
		TLSConfig: &tls.Config{
			MinVersion:         tls.VersionTLS12,
			GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) { return nil, c.checkName(hello.ServerName) },
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				return c.owner.authority.leaf(c.host, time.Now())
			},
		},
	}
	if c.tls {
		_ = server.ServeTLS(l, "", "")
	} else {
		_ = server.Serve(l)
	}
	cancel()
	client.close()
	c.end()
}

// silent takes what the HTTP packages would write to the shim's log: it is the
// guest's words.
var silent = stdlog.New(io.Discard, "", 0)

// checkName refuses a connection in which the guest says another name than the
// one that it has connected to.
func (c *Conversation) checkName(said string) error {
	if c.owner.checks.name(c, said) {
		return nil
	}
	c.refused(baselineVerdict(fmt.Sprintf("it asks for a certificate of %q", said)), nil)
	return fmt.Errorf("the connection is for %q, and not for %q", c.host, said)
}

func (c *Conversation) isNamed(said string) bool {
	if isAddress(c.host) {
		// An address is never said there (RFC 6066, section 3).
		return said == ""
	}
	return strings.EqualFold(said, c.host)
}

func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// ServeHTTP judges a request, and passes it on.
func (c *Conversation) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !c.enter() {
		panic(http.ErrAbortHandler)
	}
	defer c.busy.Done()
	select {
	case c.owner.requests <- struct{}{}:
		defer func() { <-c.owner.requests }()
	default:
		answer(w, http.StatusServiceUnavailable, baselineVerdict("there are too many requests at a time"))
		return
	}
	if !c.owner.checks.host(c, r.Host) {
		v := baselineVerdict(fmt.Sprintf("the request is for the host %q", r.Host))
		c.refused(v, r)
		answer(w, http.StatusMisdirectedRequest, v)
		return
	}
	if r.Method == http.MethodConnect || r.Method == http.MethodTrace {
		v := baselineVerdict("the method " + r.Method + " is not passed on")
		c.refused(v, r)
		answer(w, http.StatusMethodNotAllowed, v)
		return
	}
	if why := c.owner.checks.writes(r); why != "" && len(c.readonly) > 0 {
		if v := c.mayOnlyRead(r, why); v != nil {
			answer(w, http.StatusForbidden, *v)
			return
		}
	}
	c.noteMisuse(r)
	if name := missing(r, c.values); name != "" {
		const why = "the host cannot read it any more; its log says why"
		c.secret(name, "unreadable", audit.Deny, r, why)
		answer(w, http.StatusBadGateway, annotations.Verdict{Rule: "secret " + name, Origin: annotations.Origin{Layer: annotations.LayerCatalog}, Why: why})
		return
	}
	c.proxy.ServeHTTP(&scrubbedHeads{w, c.values}, r)
	// Fields that come after the body are sent when this returns.
	scrubFields(w.Header(), c.values)
}

// isFor reports whether a request's host is the one that was connected to. A
// server that answers for several must not be asked for another.
func (c *Conversation) isFor(said string) bool {
	host, port, err := net.SplitHostPort(said)
	if err != nil {
		host, port = said, ""
	}
	return strings.EqualFold(host, c.host) && (port == "" || port == strconv.Itoa(int(c.port)))
}

// answer is what a program gets in the place of the server's answer: a line that
// says which rule, and why.
func answer(w http.ResponseWriter, status int, v annotations.Verdict) {
	line, err := json.Marshal(struct {
		Nanoclaw string `json:"nanoclaw"`
		Rule     string `json:"rule"`
		Origin   string `json:"origin"`
		Why      string `json:"why"`
	}{"refused", v.Rule, v.Describe(), v.Why})
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// Who is gone needs no answer.
	_, _ = w.Write(append(line, '\n'))
}
