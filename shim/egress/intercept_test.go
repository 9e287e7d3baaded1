package egress

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
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

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/shim/audit"
	"github.com/nanoclaw/nanoclaw/shim/intercept"
)

// A webWorld is a world with a server of the name example.com, whose certificate
// the host trusts, at several addresses.
type webWorld struct {
	*world
	secret      intercept.Secret
	interceptor *intercept.Interceptor
	server      *httptest.Server

	mu    sync.Mutex
	heard []string
}

func newWebWorld(t *testing.T, rules *annotations.Network, hosts, readonly []string) *webWorld {
	t.Helper()
	s := &webWorld{secret: intercept.Secret{
		Secret: annotations.Secret{Env: "TOKEN"}, Placeholder: intercept.NewPlaceholder(),
		Read: func() (string, error) { return "the true value", nil },
	}}
	for _, e := range endpoints(hosts...) {
		s.secret.Hosts = append(s.secret.Hosts, e.Endpoint)
	}
	// Its certificate is for example.com, *.example.com and 127.0.0.1.
	s.server = httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.heard = append(s.heard, r.Method+" "+r.Header.Get("X"))
	}))
	s.server.StartTLS()
	t.Cleanup(s.server.Close)
	s.world = newWorldWith(t, rules, nil, func(w *world) *intercept.Interceptor {
		o := intercept.Options{Secrets: []intercept.Secret{s.secret}, Roots: x509.NewCertPool(), Post: w.log.post}
		o.Roots.AddCert(s.server.Certificate())
		for _, e := range endpoints(readonly...) {
			o.Readonly = append(o.Readonly, intercept.Readonly{EndpointRule: e})
		}
		var err error
		s.interceptor, err = intercept.New(o)
		w.must(err)
		return s.interceptor
	})
	for _, a := range []string{"203.0.113.9:443", "10.0.0.5:443", "172.30.0.3:443"} {
		var l net.Listener
		s.must(s.outer.Do(func() (err error) {
			l, err = net.Listen("tcp4", a)
			return err
		}))
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = s.server.Config.Serve(tls.NewListener(l, s.server.TLS))
		}()
		t.Cleanup(func() {
			_ = l.Close()
			<-served
		})
	}
	return s
}

// ask has a program in the guest send what stands for the secret to a name, or to
// an address at which it says that name.
func (s *webWorld) ask(method, name, address string) (int, error) {
	s.t.Helper()
	if address == "" {
		address = s.lookup(name)
		if net.ParseIP(address) == nil {
			return 0, errors.New(address)
		}
	}
	var c net.Conn
	if err := s.guest.Do(func() (err error) {
		c, err = net.DialTimeout("tcp4", net.JoinHostPort(address, "443"), 5*time.Second)
		return err
	}); err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.interceptor.Certificate())
	roots.AddCert(s.server.Certificate())
	t := tls.Client(c, &tls.Config{RootCAs: roots, ServerName: name})
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return 0, err
	}
	if _, err := fmt.Fprintf(t, "%s / HTTP/1.1\r\nHost: %s\r\nX: %s\r\nContent-Length: 0\r\n\r\n", method, name, s.secret.Placeholder); err != nil {
		return 0, err
	}
	answer, err := http.ReadResponse(bufio.NewReader(t), nil)
	if err != nil {
		return 0, err
	}
	_, _ = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, answer.Body.Close()
}

// last is what the server heard last, and forgets.
func (s *webWorld) last() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.heard) == 0 {
		return ""
	}
	last := s.heard[len(s.heard)-1]
	s.heard = nil
	return last
}

// TestSecretReachesItsHost: and nothing else, whether or not all else is open.
func TestSecretReachesItsHost(t *testing.T) {
	for name, rules := range map[string]*annotations.Network{"listed": only("www.example.com", "two.example.com"), "open": {Mode: annotations.NetworkOpen}} {
		t.Run(name, func(t *testing.T) {
			s := newWebWorld(t, rules, []string{"www.example.com:443"}, nil)
			if status, err := s.ask("POST", "www.example.com", ""); status != 200 || err != nil || s.last() != "POST the true value" {
				t.Errorf("its host: %d, %v", status, err)
			}
			if a := s.lookup("www.example.com"); !Pool.Contains(netip.MustParseAddr(a)) {
				t.Errorf("its host is known as %s", a)
			}
			if status, err := s.ask("POST", "two.example.com", ""); name == "listed" && (status != 200 || err != nil || s.last() != "POST "+s.secret.Placeholder) {
				t.Errorf("another host: %d, %v", status, err)
			}
			// By its address, under its name: that is not the name which was judged.
			status, err := s.ask("POST", "www.example.com", "203.0.113.9")
			if got := s.last(); name == "open" && (status != 200 || got != "POST "+s.secret.Placeholder) || name == "listed" && (err == nil || got != "") {
				t.Errorf("its address: %d, %v, %q", status, err, got)
			}
			// Another name, at the address that stands for it.
			if _, err := s.ask("POST", "two.example.com", s.lookup("www.example.com")); err == nil || s.last() != "" {
				t.Errorf("another name in TLS: %v", err)
			}
		})
	}
}

// TestSecretOfANameThatLeadsElsewhere: who owns the name, or answers for it, does
// not have the value sent to a neighbour; without the look at the address it is.
func TestSecretOfANameThatLeadsElsewhere(t *testing.T) {
	s := newWebWorld(t, only("*.example.com"), []string{"*.example.com:443"}, nil)
	if _, err := s.ask("GET", "rebind.example.com", ""); err == nil || s.last() != "" {
		t.Errorf("the check does not hold: %v", err)
	}
	s = newWebWorld(t, only("*.example.com"), []string{"*.example.com:443"}, nil)
	s.egress.proxy.judge = blind{s.egress.judge}
	if _, err := s.ask("GET", "rebind.example.com", ""); err != nil || s.last() != "GET the true value" {
		t.Errorf("the attack fails by itself: %v", err)
	}
}

func TestReadonlyEndpoints(t *testing.T) {
	s := newWebWorld(t, &annotations.Network{Mode: annotations.NetworkOpen}, nil, []string{"www.example.com:443", "10.0.0.0/8"})
	if status, err := s.ask("GET", "www.example.com", ""); status != 200 || err != nil || !strings.HasPrefix(s.last(), "GET ") {
		t.Errorf("reading: %d, %v", status, err)
	}
	if status, err := s.ask("POST", "www.example.com", ""); status != 403 || err != nil || s.last() != "" {
		t.Errorf("writing: %d, %v", status, err)
	}
	// It is none of the endpoints, and leads to one; all else being open, the true
	// address is known.
	if status, err := s.ask("POST", "rebind.example.com", ""); err == nil || s.last() != "" {
		t.Errorf("writing by another name: %d, %v", status, err)
	}
	var rules []string
	for _, e := range s.log.list() {
		if e.Event == audit.Network {
			rules = append(rules, e.Rule+" "+e.Object.Method)
		}
	}
	if got := strings.Join(rules, ", "); got != "readonly_tools www.example.com:443 POST, network " {
		t.Errorf("recorded %s", got)
	}
	if got, err := read(s.guest, "udp4", "10.0.0.5:443"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a datagram: %q, %v", got, err)
	}
	if v := s.egress.judge.datagram(netip.MustParseAddrPort("10.0.0.5:443")); v.Rule != "readonly_tools 10.0.0.0/8" {
		t.Errorf("a datagram is refused by %+v", v)
	}
}

// TestPassedOnUnseen: what is not TLS at a secret's host goes on as it is, with the
// first of it.
func TestPassedOnUnseen(t *testing.T) {
	s := newWebWorld(t, only("www.example.com"), []string{"www.example.com:80"}, nil)
	var l net.Listener
	s.must(s.outer.Do(func() (err error) {
		l, err = net.Listen("tcp4", "203.0.113.9:80")
		return err
	}))
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	var c net.Conn
	s.must(s.guest.Do(func() (err error) {
		c, err = net.Dial("tcp4", net.JoinHostPort(s.lookup("www.example.com"), "80"))
		return err
	}))
	defer func() { _ = c.Close() }()
	s.must(c.SetDeadline(time.Now().Add(20 * time.Second)))
	_, err := io.WriteString(c, "GET / "+s.secret.Placeholder)
	s.must(err)
	s.must(c.(*net.TCPConn).CloseWrite())
	if got, err := io.ReadAll(c); err != nil || string(got) != "GET / "+s.secret.Placeholder {
		t.Errorf("%q, %v", got, err)
	}
}
