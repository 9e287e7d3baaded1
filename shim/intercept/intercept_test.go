package intercept

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/annotations/pattern"
	"github.com/nanoclaw/nanoclaw/shim/audit"
)

const (
	theHost  = "crm.example.com"
	theValue = "s3cret/with+signs=="
)

// A world is a guest's program, the gateway, and the server that the host finds
// behind the name.
type world struct {
	t      *testing.T
	i      *Interceptor
	server *httptest.Server
	// trusted is the authority that the host trusts.
	trusted *authority

	mu      sync.Mutex
	records []audit.Entry
	// dialled is how often the server was connected to.
	dialled int
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func endpoint(t *testing.T, s string) pattern.Endpoint {
	t.Helper()
	e, err := pattern.ParseEndpoint(s)
	must(t, err)
	return e
}

func secret(t *testing.T, name, value string, hosts ...string) Secret {
	t.Helper()
	s := Secret{
		Secret: annotations.Secret{Env: name}, Placeholder: NewPlaceholder(),
		Read: func() (string, error) { return value, nil },
	}
	for _, h := range hosts {
		s.Hosts = append(s.Hosts, endpoint(t, h))
	}
	return s
}

func readonly(t *testing.T, s string, would bool) Readonly {
	t.Helper()
	return Readonly{EndpointRule: annotations.EndpointRule{
		Endpoint: endpoint(t, s), Origin: annotations.Origin{Layer: annotations.LayerAgent, Where: "policy.yaml:9"},
	}, Would: would}
}

// newWorld has a server behind theHost, with a certificate for the names.
func newWorld(t *testing.T, o Options, handler http.HandlerFunc, names ...string) *world {
	t.Helper()
	w := &world{t: t}
	var err error
	w.trusted, err = newAuthority(time.Now())
	must(t, err)
	o.Roots = x509.NewCertPool()
	o.Roots.AddCert(w.trusted.certificate)
	o.Post = func(e audit.Entry) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.records = append(w.records, e)
	}
	w.i, err = New(o)
	must(t, err)
	if len(names) == 0 {
		names = []string{theHost}
	}
	w.serve(handler, names[0])
	return w
}

func (w *world) serve(handler http.HandlerFunc, name string) {
	w.t.Helper()
	leaf, err := w.trusted.leaf(name, time.Now())
	must(w.t, err)
	w.server = httptest.NewUnstartedServer(handler)
	w.server.Config.ErrorLog = silent
	w.server.EnableHTTP2 = true
	w.server.TLS = &tls.Config{Certificates: []tls.Certificate{*leaf}}
	w.server.StartTLS()
	w.t.Cleanup(w.server.Close)
}

// servePlain has the server speak no TLS.
func (w *world) servePlain(handler http.HandlerFunc) {
	w.server = httptest.NewServer(handler)
	w.t.Cleanup(w.server.Close)
}

func (w *world) recorded() []audit.Entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]audit.Entry(nil), w.records...)
}

func (w *world) dials() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dialled
}

// denial returns the one record of a denial.
func (w *world) denial() audit.Entry {
	w.t.Helper()
	var found []audit.Entry
	for _, e := range w.recorded() {
		if e.Decision == audit.Deny || e.Would == audit.Deny {
			found = append(found, e)
		}
	}
	if len(found) != 1 {
		w.t.Fatalf("%d denials are on record: %+v", len(found), found)
	}
	return found[0]
}

// connect is a connection of the guest's to a host, as the gateway takes it. Of
// one that is passed on unseen the bytes are answered with "raw:" and the first.
func (w *world) connect(host string, port uint16) net.Conn {
	w.t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(w.t, err)
	defer func() { _ = l.Close() }()
	guest, err := net.Dial("tcp4", l.Addr().String())
	must(w.t, err)
	ours, err := l.Accept()
	must(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = ours.Close() }()
		stop := context.AfterFunc(ctx, func() { _ = ours.Close() })
		defer stop()
		c := w.i.For(host, port, nil)
		if c == nil {
			_, _ = io.WriteString(ours, "untouched")
			return
		}
		first, pass := c.Serve(ctx, ours, func(ctx context.Context) (net.Conn, error) {
			w.mu.Lock()
			w.dialled++
			w.mu.Unlock()
			var d net.Dialer
			return d.DialContext(ctx, "tcp4", w.server.Listener.Addr().String())
		})
		if pass {
			_, _ = io.WriteString(ours, "raw:"+string(first))
		}
	}()
	w.t.Cleanup(func() {
		_ = guest.Close()
		cancel()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			w.t.Error("a conversation does not end")
		}
	})
	return guest
}

// client is a program in the container that trusts what the container trusts.
func (w *world) client(host string, port uint16, sni string, protocols ...string) *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(w.i.Certificate())
	t := &http.Transport{
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return w.connect(host, port), nil },
		TLSClientConfig:   &tls.Config{RootCAs: roots, ServerName: sni, NextProtos: protocols},
		ForceAttemptHTTP2: len(protocols) == 0,
	}
	w.t.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t, Timeout: 20 * time.Second}
}

// ask sends a request and returns the status and the body.
func (w *world) ask(c *http.Client, r *http.Request) (int, string) {
	w.t.Helper()
	answer, err := c.Do(r)
	must(w.t, err)
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	must(w.t, err)
	return answer.StatusCode, string(body)
}

func request(t *testing.T, method, url string, fields ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	must(t, err)
	for i := 0; i < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	return r
}

// heard keeps the requests that a server got.
type heard struct {
	mu  sync.Mutex
	all []*http.Request
}

func (h *heard) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.all = append(h.all, r)
	h.mu.Unlock()
	_, _ = io.WriteString(w, "heard")
}

func (h *heard) last(t *testing.T) *http.Request {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.all) == 0 {
		t.Fatal("the server was not asked")
	}
	return h.all[len(h.all)-1]
}

func (h *heard) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.all)
}

func TestValueReachesItsHost(t *testing.T) {
	for _, protocol := range []string{"h2", "http/1.1"} {
		s := secret(t, "CRM_TOKEN", theValue, theHost+":443")
		var h heard
		w := newWorld(t, Options{Secrets: []Secret{s}}, h.serve)
		c := w.client(theHost, 443, theHost, protocol)
		c.Transport.(*http.Transport).ForceAttemptHTTP2 = protocol == "h2"

		r := request(t, "POST", "https://"+theHost+"/contacts?x=1;y&token="+s.Placeholder,
			"Authorization", "Bearer "+s.Placeholder, "X-Twice", s.Placeholder+","+s.Placeholder, "X-Forwarded-For", "10.1.1.1")
		if status, body := w.ask(c, r); status != 200 || body != "heard" {
			t.Fatalf("%s: %d %q", protocol, status, body)
		}
		got := h.last(t)
		if got.Header.Get("Authorization") != "Bearer "+theValue || got.Header.Get("X-Twice") != theValue+","+theValue {
			t.Errorf("%s: the server got %v", protocol, got.Header)
		}
		if got.URL.RawQuery != "x=1;y&token=s3cret%2Fwith%2Bsigns%3D%3D" || got.Host != theHost || got.Header.Get("X-Forwarded-For") != "10.1.1.1" {
			t.Errorf("%s: the server got %s of %s, %v", protocol, got.URL, got.Host, got.Header)
		}
		r = request(t, "GET", "https://"+theHost+"/")
		r.SetBasicAuth("user", s.Placeholder)
		w.ask(c, r)
		if _, password, _ := h.last(t).BasicAuth(); password != theValue {
			t.Errorf("%s: the password is %q", protocol, password)
		}
		// In a body it stays what it is.
		var body string
		w.server.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			body = string(b)
		})
		r = request(t, "POST", "https://"+theHost+"/")
		r.Body = io.NopCloser(strings.NewReader(s.Placeholder))
		w.ask(c, r)
		if body != s.Placeholder {
			t.Errorf("%s: the body is %q", protocol, body)
		}
		all := w.recorded()
		if len(all) != 1 || all[0].Event != audit.Secret || all[0].Object.Action != "used" || all[0].Object.Name != "CRM_TOKEN" ||
			all[0].Object.Host != theHost || all[0].Decision != audit.Allow {
			t.Errorf("%s: recorded %+v", protocol, all)
		}
		if strings.Contains(fmt.Sprintf("%+v", *all[0].Object), theValue) || strings.Contains(all[0].Object.Path, "?") {
			t.Errorf("%s: recorded %+v", protocol, *all[0].Object)
		}
	}
}

func TestValueIsReadAnewForEachConnection(t *testing.T) {
	s := secret(t, "T", "the first value", theHost)
	now, broken := "the first value", error(nil)
	s.Read = func() (string, error) { return now, broken }
	var h heard
	w := newWorld(t, Options{Secrets: []Secret{s}}, h.serve)
	for _, v := range []string{"the first value", "the second value"} {
		now = v
		w.ask(w.client(theHost, 443, theHost), request(t, "GET", "https://"+theHost+"/", "X", s.Placeholder))
		if got := h.last(t).Header.Get("X"); got != v {
			t.Errorf("%q was sent, and not %q", got, v)
		}
	}
	broken = errors.New("permission denied: /etc/nanoclaw/secrets/t")
	c := w.client(theHost, 443, theHost)
	status, body := w.ask(c, request(t, "GET", "https://"+theHost+"/", "X", s.Placeholder))
	if status != http.StatusBadGateway || !strings.Contains(body, "secret T") || strings.Contains(body, "/etc") || h.count() != 2 {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := w.ask(c, request(t, "GET", "https://"+theHost+"/")); status != 200 {
		t.Errorf("a request without the secret: %d", status)
	}
}

// What is not TLS gets no value, and what is not the secret's host is not
// answered here.
func TestWhatIsPassedOn(t *testing.T) {
	s := secret(t, "T", theValue, "*.example.com:443")
	w := newWorld(t, Options{Secrets: []Secret{s}}, nil)
	plain := w.connect(theHost, 443)
	_, err := io.WriteString(plain, "GET / HTTP/1.1\r\nHost: crm.example.com\r\nX: "+s.Placeholder+"\r\n\r\n")
	must(t, err)
	got := make([]byte, 5)
	if _, err := io.ReadFull(plain, got); err != nil || string(got) != "raw:G" {
		t.Errorf("plain HTTP: %q, %v", got, err)
	}
	for host, port := range map[string]uint16{"example.com": 443, "a.b.example.com": 443, theHost: 8443, "other.example.org": 443} {
		if b, err := io.ReadAll(w.connect(host, port)); err != nil || string(b) != "untouched" {
			t.Errorf("%s:%d: %q, %v", host, port, b, err)
		}
	}
	if w.dials() != 0 {
		t.Error("the server was connected to")
	}
	for name, want := range map[string]bool{theHost: true, "example.com": false, "other.example.org": false} {
		if w.i.Knows(name) != want {
			t.Errorf("Knows(%s) is %v", name, !want)
		}
	}
	var none *Interceptor
	if none.Knows(theHost) || none.For(theHost, 443, nil) != nil {
		t.Error("none intercepts")
	}
}

// An address that a name leads to is as read-only as by itself.
func TestReadonlyAddressByName(t *testing.T) {
	w := newWorld(t, Options{Readonly: []Readonly{readonly(t, "10.1.0.0/16:443", false)}}, nil)
	at := []netip.Addr{netip.MustParseAddr("10.1.2.3")}
	if w.i.For("evil.example.org", 443, at) == nil || w.i.For("10.1.2.3", 443, at) == nil {
		t.Error("it is passed on unseen")
	}
	if w.i.For("evil.example.org", 443, []netip.Addr{netip.MustParseAddr("10.2.2.3")}) != nil {
		t.Error("another address is looked into")
	}
}

func TestEndsWithoutASound(t *testing.T) {
	w := newWorld(t, Options{Secrets: []Secret{secret(t, "T", theValue, theHost)}}, nil)
	c := w.connect(theHost, 443)
	must(t, c.Close())
	c = w.connect(theHost, 443)
	_, err := c.Write([]byte{recordHandshake, 3, 1, 0xff, 0xff, 1, 0, 0})
	must(t, err)
	_ = c.(*net.TCPConn).CloseWrite()
	if _, err := io.ReadAll(c); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Error(err)
	}
}

func TestUpgrade(t *testing.T) {
	s := secret(t, "T", theValue, theHost)
	w := newWorld(t, Options{Secrets: []Secret{s}}, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != theValue {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = rw.WriteString("HTTP/1.1 101 " + theValue + "\r\nConnection: Upgrade\r\nUpgrade: words\r\nX: " + theValue + "\r\n\r\n")
		_ = rw.Flush()
		line, _ := rw.ReadString('\n')
		// It ends with the first byte of the value, and nothing follows.
		_, _ = rw.WriteString("<" + line + theValue + "> s")
		_ = rw.Flush()
		_, _ = rw.ReadString('\n')
	})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(w.i.Certificate())
	c := tls.Client(w.connect(theHost, 443), &tls.Config{ServerName: theHost, RootCAs: roots})
	defer func() { _ = c.Close() }()
	must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	_, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: words\r\nAuthorization: %s\r\n\r\n", theHost, s.Placeholder)
	must(t, err)
	r := bufio.NewReader(c)
	answer, err := http.ReadResponse(r, nil)
	must(t, err)
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != 101 || answer.Header.Get("X") != s.Placeholder || strings.Contains(answer.Status, theValue) {
		b, _ := io.ReadAll(answer.Body)
		t.Fatalf("%s %v %s", answer.Status, answer.Header, b)
	}
	_, err = io.WriteString(c, "hello\n")
	must(t, err)
	want := "<hello\n" + s.Placeholder[:len(theValue)] + "> s"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
}

func TestTooMany(t *testing.T) {
	w := newWorld(t, Options{Secrets: []Secret{secret(t, "T", theValue, theHost)}}, nil)
	for range maxConns {
		w.i.conns <- struct{}{}
	}
	if b, err := io.ReadAll(w.connect(theHost, 443)); err == nil || len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
	if e := w.denial(); !strings.Contains(e.Object.Detail, "too many") {
		t.Errorf("%+v", e)
	}
}

func TestSubstituteInField(t *testing.T) {
	basic := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for field, want := range map[string]string{
		"":                                "",
		"P":                               "V",
		"token P, token P":                "token V, token V",
		"Basic " + basic("user:P"):        "Basic " + basic("user:V"),
		"bAsic  " + basic("P:"):           "bAsic " + basic("V:"),
		"Basic " + basic("user:password"): "Basic " + basic("user:password"),
		"Basic P":                         "Basic V",
		"basic":                           "basic",
		"Bearer " + basic("P"):            "Bearer " + basic("P"),
	} {
		if got := inField(field, "P", "V"); got != want {
			t.Errorf("%q becomes %q, and not %q", field, got, want)
		}
	}
}
