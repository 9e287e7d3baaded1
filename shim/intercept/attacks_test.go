package intercept

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/annotations/pattern"
	"github.com/nanoclaw/nanoclaw/shim/audit"
)

// Each test makes an attempt twice: with the check that stops it, and without.

// A program that asks a server for another host of its own, which somebody else
// may have, does not get the value sent there.
func TestOtherHostOfTheServer(t *testing.T) {
	for _, checked := range []bool{true, false} {
		for _, protocol := range []string{"h2", "http/1.1"} {
			s := secret(t, "T", theValue, theHost)
			var h heard
			w := newWorld(t, Options{Secrets: []Secret{s}}, h.serve)
			if !checked {
				w.i.checks.host = func(*Conversation, string) bool { return true }
			}
			r := request(t, "GET", "https://"+theHost+"/", "X", s.Placeholder)
			r.Host = "evil.example.com"
			c := w.client(theHost, 443, theHost, protocol)
			c.Transport.(*http.Transport).ForceAttemptHTTP2 = protocol == "h2"
			status, body := w.ask(c, r)
			switch {
			case !checked && (h.count() != 1 || h.last(t).Host != "evil.example.com" || h.last(t).Header.Get("X") != theValue):
				t.Errorf("%s: the attack fails by itself: %d %s", protocol, status, body)
			case checked && (status != http.StatusMisdirectedRequest || h.count() != 0 || w.dials() != 0 || !strings.Contains(w.denial().Object.Detail, "evil")):
				t.Errorf("%s: %d %s", protocol, status, body)
			}
		}
	}
}

// So it is with a target that names the host by itself.
func TestAbsoluteTarget(t *testing.T) {
	s := secret(t, "T", theValue, theHost)
	var h heard
	w := newWorld(t, Options{Secrets: []Secret{s}}, h.serve)
	c := tls.Client(w.connect(theHost, 443), &tls.Config{ServerName: theHost, InsecureSkipVerify: true})
	_, err := io.WriteString(c, "GET http://evil.example.com/ HTTP/1.1\r\nHost: "+theHost+"\r\nX: "+s.Placeholder+"\r\n\r\n")
	must(t, err)
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	must(t, err)
	must(t, answer.Body.Close())
	if answer.StatusCode != http.StatusMisdirectedRequest || h.count() != 0 {
		t.Errorf("%s, %d requests", answer.Status, h.count())
	}
}

func TestOtherNameInTLS(t *testing.T) {
	for _, checked := range []bool{true, false} {
		for _, said := range []string{"evil.example.com", ""} {
			s := secret(t, "T", theValue, theHost)
			var h heard
			w := newWorld(t, Options{Secrets: []Secret{s}}, h.serve)
			if !checked {
				w.i.checks.name = func(*Conversation, string) bool { return true }
			}
			c := tls.Client(w.connect(theHost, 443), &tls.Config{ServerName: said, InsecureSkipVerify: true})
			err := c.Handshake()
			switch {
			case !checked && err != nil:
				t.Errorf("%q: the attempt fails by itself: %v", said, err)
			case checked && (err == nil || w.dials() != 0 || w.denial().Event != audit.Network):
				t.Errorf("%q: %v", said, err)
			}
		}
	}
}

// A server that does not prove that it is the secret's host gets nothing: here
// one with a certificate of an authority that the host does not trust, and one
// with a proper certificate for another name.
func TestServerThatIsAnother(t *testing.T) {
	s := secret(t, "T", theValue, theHost)
	try := func(trust bool, name string) (int, string, *heard, *world) {
		var h heard
		w := newWorld(t, Options{Secrets: []Secret{s}}, nil)
		others, err := newAuthority(time.Now())
		must(t, err)
		w.trusted = others
		w.serve(h.serve, name)
		if trust {
			w.i.options.Roots.AddCert(others.certificate)
		}
		status, body := w.ask(w.client(theHost, 443, theHost), request(t, "GET", "https://"+theHost+"/", "X", s.Placeholder))
		return status, body, &h, w
	}
	if status, _, h, _ := try(true, theHost); status != 200 || h.last(t).Header.Get("X") != theValue {
		t.Error("the attack fails by itself")
	}
	for _, status := range []struct {
		trust bool
		name  string
	}{{false, theHost}, {true, "evil.example.com"}} {
		code, body, h, w := try(status.trust, status.name)
		if code != http.StatusBadGateway || h.count() != 0 || !strings.Contains(body, "does not prove") {
			t.Errorf("%+v: %d %s, %d requests", status, code, body, h.count())
		}
		if e := w.denial(); !strings.Contains(e.Object.Detail, "does not prove") {
			t.Errorf("recorded %+v", e)
		}
	}
}

// What stands for one host's secret is sent to another as it is, and recorded.
func TestSecretOfAnotherHost(t *testing.T) {
	mine, other := secret(t, "MINE", theValue, theHost), secret(t, "OTHER", "the other value", "other.example.com")
	var h heard
	w := newWorld(t, Options{Secrets: []Secret{mine, other}}, h.serve)
	w.ask(w.client(theHost, 443, theHost), request(t, "GET", "https://"+theHost+"/?k="+other.Placeholder, "X", other.Placeholder))
	if got := h.last(t); got.Header.Get("X") != other.Placeholder || got.URL.RawQuery != "k="+other.Placeholder {
		t.Errorf("the server got %v %s", got.Header, got.URL)
	}
	if e := w.denial(); e.Event != audit.Secret || e.Object.Name != "OTHER" || e.Object.Action != "misused" || e.Rule != "secret OTHER" {
		t.Errorf("recorded %+v", e)
	}

	other.Hosts = append(other.Hosts, endpoint(t, theHost))
	w = newWorld(t, Options{Secrets: []Secret{mine, other}}, h.serve)
	w.ask(w.client(theHost, 443, theHost), request(t, "GET", "https://"+theHost+"/", "X", other.Placeholder))
	if h.last(t).Header.Get("X") != "the other value" {
		t.Error("the attack fails by itself")
	}
}

// An echo of the value becomes the placeholder, wherever a server has it.
func TestEcho(t *testing.T) {
	long := strings.Repeat("x", smallBody)
	shapes := map[string]http.HandlerFunc{
		"field": func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X", r.Header.Get("X")) },
		"early hints": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "<"+r.Header.Get("X")+">")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
		},
		"redirection": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "/?"+url.QueryEscape(r.Header.Get("X")))
			w.WriteHeader(http.StatusOK)
		},
		"body": func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Header.Get("X")) },
		"stream": func(w http.ResponseWriter, r *http.Request) {
			for _, b := range []byte("<" + r.Header.Get("X") + ">") {
				_, _ = w.Write([]byte{b})
				_ = http.NewResponseController(w).Flush()
			}
		},
		"long": func(w http.ResponseWriter, r *http.Request) {
			body := long + r.Header.Get("X") + long
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			_, _ = io.WriteString(w, body)
		},
		"trailer": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "X")
			_, _ = io.WriteString(w, "body")
			w.Header().Set("X", r.Header.Get("X"))
		},
		"trailer not announced": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "body")
			_ = http.NewResponseController(w).Flush()
			w.Header().Set(http.TrailerPrefix+"X", r.Header.Get("X"))
		},
		"compressed if it may be": func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
				w.Header().Set("Content-Encoding", "gzip")
			}
			_, _ = io.WriteString(w, r.Header.Get("X"))
		},
	}
	for name, shape := range shapes {
		for _, protocol := range []string{"h2", "http/1.1"} {
			for _, checked := range []bool{true, false} {
				s := secret(t, "T", theValue, theHost)
				w := newWorld(t, Options{Secrets: []Secret{s}}, shape)
				if !checked {
					w.i.checks.scrub = func(*Conversation, *http.Response) error { return nil }
				}
				c := w.client(theHost, 443, theHost, protocol)
				c.Transport.(*http.Transport).ForceAttemptHTTP2 = protocol == "h2"
				var seen strings.Builder
				r := request(t, "GET", "https://"+theHost+"/", "X", s.Placeholder, "Accept-Encoding", "gzip")
				r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
					Got1xxResponse: func(_ int, h textproto.MIMEHeader) error { return http.Header(h).Write(&seen) },
				}))
				answer, err := c.Do(r)
				must(t, err)
				body, err := io.ReadAll(answer.Body)
				must(t, errors.Join(err, answer.Body.Close()))
				must(t, answer.Header.Write(&seen))
				must(t, answer.Trailer.Write(&seen))
				seen.Write(body)
				text := seen.String()
				leaked := strings.Contains(text, theValue) || strings.Contains(text, url.QueryEscape(theValue))
				if checked && leaked {
					t.Errorf("%s by %s: the value came back", name, protocol)
				}
				// Heads before and after are taken care of apart.
				if !checked && !leaked && !slices.Contains([]string{"field", "early hints", "redirection", "trailer", "trailer not announced"}, name) {
					t.Errorf("%s by %s: the attack fails by itself: %.200q", name, protocol, text)
				}
				if checked && !strings.Contains(text, s.Placeholder[:len(theValue)]) {
					t.Errorf("%s by %s: there is no placeholder: %.200q", name, protocol, text)
				}
			}
		}
	}
}

func TestScrubberHoldsBack(t *testing.T) {
	values := []value{{placeholder: "P1", value: "secret-one"}, {placeholder: "P2", value: "secret-two-long"}, {placeholder: "P3", value: "cret"}}
	const text = "a secret-one, secret-secret-two-long; secretsecret-onesecre cretcret secre"
	const want = "a P1, seP3-P2; seP3P1secre P3P3 secre"
	for name, from := range map[string]io.Reader{
		"whole": strings.NewReader(text), "bytes": iotest.OneByteReader(strings.NewReader(text)),
		"halves": iotest.HalfReader(strings.NewReader(text)), "with the end": iotest.DataErrReader(strings.NewReader(text)),
	} {
		got, err := io.ReadAll(&scrubber{from: io.NopCloser(from), pairs: pairs(values, false)})
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	got, err := io.ReadAll(&scrubber{from: io.NopCloser(strings.NewReader(text)), pairs: pairs(values, true)})
	if err != nil || len(got) != len(text) || bytes.Contains(got, []byte("cret-")) {
		t.Errorf("%q, %v", got, err)
	}
}

var theReadonly = "https://" + theHost + "/tickets?state=open"

func TestReadonly(t *testing.T) {
	cases := []struct {
		name   string
		method string
		fields []string
		body   string
		plain  bool
		pass   bool
	}{
		{name: "GET", method: "GET", pass: true},
		{name: "HEAD", method: "HEAD", pass: true},
		{name: "OPTIONS", method: "OPTIONS", pass: true},
		{name: "GET in plain HTTP", method: "GET", plain: true, pass: true},
		{name: "POST", method: "POST"},
		{name: "POST in plain HTTP", method: "POST", plain: true},
		{name: "PUT", method: "PUT", body: "x"},
		{name: "PATCH", method: "PATCH", body: "x"},
		{name: "DELETE", method: "DELETE"},
		{name: "an unknown method", method: "PROPPATCH"},
		{name: "get", method: "get"},
		{name: "an override", method: "GET", fields: []string{"X-HTTP-Method-Override", "DELETE"}},
		{name: "another override", method: "GET", fields: []string{"X-Http-Method", "DELETE"}},
		{name: "a third override", method: "GET", fields: []string{"X-Method-Override", "DELETE"}},
		{name: "a body", method: "GET", body: "DELETE / HTTP/1.1\r\nHost: x\r\n\r\n"},
		{name: "an upgrade", method: "GET", plain: true, fields: []string{"Connection", "Upgrade", "Upgrade", "websocket"}},
	}
	for _, c := range cases {
		for _, how := range []string{"checked", "unchecked", "recorded"} {
			var h heard
			w := newWorld(t, Options{Readonly: []Readonly{readonly(t, theHost, how == "recorded")}}, h.serve)
			if how == "unchecked" {
				w.i.checks.writes = func(*http.Request) string { return "" }
			}
			target, port := theReadonly, uint16(443)
			if c.plain {
				target, port = strings.Replace(theReadonly, "https", "http", 1), 80
				w.servePlain(h.serve)
			}
			r := request(t, c.method, target, c.fields...)
			if c.body != "" {
				r.Body = io.NopCloser(strings.NewReader(c.body))
			}
			status, body := w.ask(w.client(theHost, port, theHost), r)
			if how == "checked" && !c.pass {
				var said struct{ Rule, Origin string }
				must(t, json.Unmarshal([]byte(body), &said))
				e := w.denial()
				if status != http.StatusForbidden || h.count() != 0 || w.dials() != 0 || said.Rule != "readonly_tools "+theHost ||
					said.Origin != "agent, policy.yaml:9" || strings.Count(body, "\n") != 1 {
					t.Errorf("%s: %d %s, %d requests", c.name, status, body, h.count())
				}
				if e.Event != audit.Network || e.Rule != said.Rule || e.Object.Method != c.method || e.Object.Path != "/tickets" || e.Object.Layer != "agent" {
					t.Errorf("%s: recorded %+v of %+v", c.name, e, e.Object)
				}
				continue
			}
			if h.count() != 1 || h.last(t).URL.RawQuery != "state=open" {
				t.Errorf("%s, %s: %d %s, %d requests", c.name, how, status, body, h.count())
			}
			if how == "recorded" && !c.pass {
				if e := w.denial(); e.Decision != audit.Allow || e.Would != audit.Deny {
					t.Errorf("%s: recorded %+v", c.name, e)
				}
			} else if n := len(w.recorded()); n != 0 {
				t.Errorf("%s, %s: %d records", c.name, how, n)
			}
		}
	}
}

// What is neither HTTP nor TLS cannot be judged.
func TestReadonlyOfAnotherProtocol(t *testing.T) {
	for _, would := range []bool{false, true} {
		w := newWorld(t, Options{Readonly: []Readonly{readonly(t, theHost, would)}}, nil)
		c := w.connect(theHost, 5432)
		_, err := c.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47})
		must(t, err)
		got, err := io.ReadAll(c)
		e := w.denial()
		switch {
		case would && string(got) != "raw:\x00" && err == nil, would && e.Would != audit.Deny:
			t.Errorf("%q, %v, %+v", got, err, e)
		case !would && (len(got) > 0 || err == nil || e.Decision != audit.Deny || e.Object.Port != 5432):
			t.Errorf("%q, %v, %+v", got, err, e)
		}
	}
}

func TestMethodsThatAreNotPassedOn(t *testing.T) {
	for _, m := range []string{"TRACE", "CONNECT"} {
		var h heard
		w := newWorld(t, Options{Secrets: []Secret{secret(t, "T", theValue, theHost)}}, h.serve)
		c := tls.Client(w.connect(theHost, 443), &tls.Config{ServerName: theHost, InsecureSkipVerify: true})
		_, err := io.WriteString(c, m+" "+theHost+":443 HTTP/1.1\r\nHost: "+theHost+":443\r\n\r\n")
		must(t, err)
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		must(t, err)
		must(t, answer.Body.Close())
		if answer.StatusCode < 400 || h.count() != 0 {
			t.Errorf("%s: %s", m, answer.Status)
		}
	}
}

// FuzzGuest is whatever a guest sends: nothing of it panics, and nothing but a
// request that was understood leads to a connection.
func FuzzGuest(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: crm.example.com\r\n\r\n"), true)
	f.Add([]byte("POST / HTTP/1.1\r\nHost: crm.example.com\r\nContent-Length: 3\r\n\r\nabc"), true)
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), true)
	f.Add([]byte{22, 3, 1, 0, 5, 1, 0, 0, 1, 3}, false)
	f.Add([]byte{22, 3, 1, 255, 255, 1, 0, 0, 1, 3}, false)
	f.Add([]byte{}, false)
	i, err := New(Options{
		Secrets:  []Secret{{Secret: annotations.Secret{Hosts: []pattern.Endpoint{{Host: theHost}}}, Placeholder: NewPlaceholder(), Read: func() (string, error) { return theValue, nil }}},
		Readonly: []Readonly{{EndpointRule: annotations.EndpointRule{Endpoint: pattern.Endpoint{Host: theHost, Port: 80}}}},
		Post:     func(audit.Entry) {},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, sent []byte, readOnly bool) {
		port := uint16(443)
		if readOnly {
			port = 80
		}
		guest, ours := net.Pipe()
		done := make(chan struct{})
		dialled := false
		go func() {
			defer close(done)
			defer func() { _ = ours.Close() }()
			i.For(theHost, port, nil).Serve(t.Context(), ours, func(context.Context) (net.Conn, error) {
				dialled = true
				return nil, errOver
			})
		}()
		go func() { _, _ = io.Copy(io.Discard, guest) }()
		_ = guest.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = guest.Write(sent)
		_ = guest.Close()
		<-done
		if dialled && !bytes.HasPrefix(sent, []byte("GET ")) && !bytes.HasPrefix(sent, []byte("HEAD ")) && !bytes.HasPrefix(sent, []byte("OPTIONS ")) {
			t.Errorf("the server was asked by %q", sent)
		}
	})
}
