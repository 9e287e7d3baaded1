package egress

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/api/stream"
	"github.com/nanoclaw/nanoclaw/shim/audit"
)

// records keeps what was recorded.
type records struct {
	mu  sync.Mutex
	all []audit.Entry
}

func (r *records) post(e audit.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, e)
}

func (r *records) list() []audit.Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

// asked keeps what a name server was asked, and answers out of a table.
type asked struct {
	table map[string][]string
	mu    sync.Mutex
	names []string
}

func (a *asked) ask(_ context.Context, server netip.Addr, m stream.DNSMessage) ([]byte, error) {
	q, err := parseQuestion(m.Message)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.names = append(a.names, q.name)
	if server.IsValid() && server.String() != "127.0.0.11" {
		return nil, errors.New("asked " + server.String())
	}
	addrs, ok := a.table[q.name]
	if ok && addrs == nil {
		return nil, errors.New("no answer")
	}
	return tell(m.Message, addrs...)
}

const engineResolver = "nameserver 127.0.0.11\n"

func newResolver(t testing.TB, rules *annotations.Network, table map[string][]string) (*resolver, *asked, *records) {
	t.Helper()
	a, log := &asked{table: table}, &records{}
	j := ownNetwork(newJudge(rules))
	up := &upstream{judge: j, resolvConf: func() []byte { return []byte(engineResolver) }, ask: a.ask, remembered: map[string]remembered{}}
	return &resolver{judge: j, names: newNames(), upstream: up, report: newReporter(log.post)}, a, log
}

// said is what was answered: a code, and addresses.
func said(t testing.TB, reply []byte) (dnsmessage.RCode, []string) {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(reply); err != nil {
		t.Fatal(err)
	}
	if m.ID != 77 || !m.Response {
		t.Errorf("the answer is %+v", m.Header)
	}
	var addrs []string
	for _, r := range m.Answers {
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			addrs = append(addrs, netip.AddrFrom4(b.A).String())
		case *dnsmessage.PTRResource:
			addrs = append(addrs, b.PTR.String())
		}
	}
	return m.RCode, addrs
}

func TestAnswers(t *testing.T) {
	table := map[string][]string{
		"db": {"172.30.0.3"}, "other": {"172.30.0.4"}, "me": {"172.30.0.2"}, "silent": nil, "mail.example.com": {"203.0.113.25"},
	}
	r, a, log := newResolver(t, only("db:80", "me", "silent", "gone"), table)
	first := poolAddress(0).String()
	for _, c := range []struct {
		name string
		kind dnsmessage.Type
		code dnsmessage.RCode
		want []string
	}{
		{"db.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, []string{first}},
		{"DB.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, []string{first}},
		{"db.", dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess, nil},
		{"db.", dnsmessage.TypeTXT, dnsmessage.RCodeSuccess, nil},
		{"1.0.18.198.in-addr.arpa.", dnsmessage.TypePTR, dnsmessage.RCodeSuccess, []string{"db."}},
		{"9.0.18.198.in-addr.arpa.", dnsmessage.TypePTR, dnsmessage.RCodeNameError, nil},
		{"me.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, []string{"172.30.0.2"}},
		{"silent.", dnsmessage.TypeA, dnsmessage.RCodeServerFailure, nil},
		{"gone.", dnsmessage.TypeA, dnsmessage.RCodeNameError, nil},
		{"gone.", dnsmessage.TypeAAAA, dnsmessage.RCodeNameError, nil},
		{"other.", dnsmessage.TypeA, dnsmessage.RCodeNameError, nil},
		{"other.", dnsmessage.TypeAAAA, dnsmessage.RCodeNameError, nil},
		{"secret-data.attacker.example.", dnsmessage.TypeTXT, dnsmessage.RCodeNameError, nil},
	} {
		code, addrs := said(t, r.answer(t.Context(), ask(t, c.name, c.kind, false), stream.UDP))
		if code != c.code || !slices.Equal(addrs, c.want) {
			t.Errorf("%s %s: %s %v, want %s %v", c.name, c.kind, code, addrs, c.code, c.want)
		}
	}
	// Nobody outside hears of a name that is not allowed.
	for _, name := range a.names {
		if name == "other" || name == "secret-data.attacker.example" {
			t.Errorf("the resolver was asked for %s", name)
		}
	}
	var denied []string
	for _, e := range log.list() {
		if e.Event != audit.Network || e.Decision != audit.Deny || e.Rule != "network.allow" || e.Object.Layer != "agent" {
			t.Errorf("recorded %+v, %+v", e, e.Object)
		}
		denied = append(denied, e.Object.Host)
	}
	if want := []string{"other", "secret-data.attacker.example"}; !slices.Equal(denied, want) {
		t.Errorf("recorded %v, want %v", denied, want)
	}
}

func TestAnswersWhereAllIsOpen(t *testing.T) {
	r, _, log := newResolver(t, but("evil.example.com", "mail.example.com:25"), map[string][]string{
		"db": {"172.30.0.3"}, "mail.example.com": {"203.0.113.25"},
	})
	for _, c := range []struct {
		name string
		code dnsmessage.RCode
		want []string
	}{
		{"db.", dnsmessage.RCodeSuccess, []string{"172.30.0.3"}},
		{"mail.example.com.", dnsmessage.RCodeSuccess, []string{poolAddress(0).String()}},
		{"evil.example.com.", dnsmessage.RCodeNameError, nil},
	} {
		code, addrs := said(t, r.answer(t.Context(), ask(t, c.name, dnsmessage.TypeA, true), stream.TCP))
		if code != c.code || !slices.Equal(addrs, c.want) {
			t.Errorf("%s: %s %v", c.name, code, addrs)
		}
	}
	if n := len(log.list()); n != 1 {
		t.Errorf("%d records", n)
	}
}

func TestLargeAnswersAreCut(t *testing.T) {
	var many []string
	for i := range 60 {
		many = append(many, netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}).String())
	}
	r, _, _ := newResolver(t, but("private"), map[string][]string{"many": many})
	reply := r.answer(t.Context(), ask(t, "many.", dnsmessage.TypeA, false), stream.UDP)
	if len(reply) > plainAnswer || reply[2]&0x02 == 0 {
		t.Errorf("%d bytes, flags %x", len(reply), reply[2])
	}
	for _, reply := range [][]byte{
		r.answer(t.Context(), ask(t, "many.", dnsmessage.TypeA, true), stream.UDP),
		r.answer(t.Context(), ask(t, "many.", dnsmessage.TypeA, false), stream.TCP),
	} {
		if _, addrs := said(t, reply); len(addrs) != 60 {
			t.Errorf("%d addresses", len(addrs))
		}
	}
}

// TestServers is about a resolv.conf that the container has written.
func TestServers(t *testing.T) {
	host := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(host, []byte("nameserver 10.0.0.53\nnameserver 127.0.0.53\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		rules *annotations.Network
		file  string
		want  string
	}{
		{only("db"), engineResolver, "127.0.0.11"},
		{but("private"), "nameserver 10.0.0.53\n", "10.0.0.53"},
		{but("private"), "nameserver 10.0.0.54\nnameserver 203.0.113.53\n", "203.0.113.53"},
		{only("db"), "nameserver 203.0.113.53\n", ""},
		{only("203.0.113.53:53"), "nameserver 203.0.113.53\n", "203.0.113.53"},
		{but("169.254.169.254"), "nameserver 127.0.0.53\nnameserver 169.254.169.254\nnameserver 172.30.0.2\n", ""},
		{but("private"), "", ""},
	} {
		u := &upstream{judge: ownNetwork(newJudge(c.rules)), resolvConf: func() []byte { return []byte(c.file) }, hosts: []string{host, host + ".none"}}
		got, _ := u.servers()
		if c.want == "" && len(got) == 0 {
			continue
		}
		if len(got) != 1 || got[0].String() != c.want {
			t.Errorf("%q: %v, want %s", c.file, got, c.want)
		}
	}
}

func TestResolvedNamesAreRemembered(t *testing.T) {
	r, a, _ := newResolver(t, only("**"), map[string][]string{"db": {"203.0.113.1"}})
	for range 3 {
		if _, err := r.upstream.resolve(t.Context(), "db"); err != nil {
			t.Fatal(err)
		}
	}
	if len(a.names) != 1 {
		t.Errorf("asked for %v", a.names)
	}
	for i := range maxRemembered + 10 {
		r.upstream.remember(string(rune('a'+i%26))+time.Duration(i).String(), addresses{ttl: minTTL})
	}
	if len(r.upstream.remembered) > maxRemembered {
		t.Errorf("%d names are remembered", len(r.upstream.remembered))
	}
}

func TestQuestionsByTCP(t *testing.T) {
	r, _, _ := newResolver(t, only("db"), map[string][]string{"db": {"172.30.0.3"}})
	guest, here := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = here.Close() }()
		r.converse(t.Context(), here)
	}()
	m := ask(t, "db.", dnsmessage.TypeA, false)
	for range 2 {
		if _, err := guest.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...)); err != nil {
			t.Fatal(err)
		}
		var size [2]byte
		if _, err := io.ReadFull(guest, size[:]); err != nil {
			t.Fatal(err)
		}
		reply := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(guest, reply); err != nil {
			t.Fatal(err)
		}
		if _, addrs := said(t, reply); len(addrs) != 1 {
			t.Errorf("addresses %v", addrs)
		}
	}
	// Longer than any question.
	if _, err := guest.Write([]byte{0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	<-done
}

// FuzzAnswer: whatever a guest sends, what is answered is an answer to it, and
// nobody is asked for a name that is not allowed.
func FuzzAnswer(f *testing.F) {
	f.Add(ask(f, "db.", dnsmessage.TypeA, true))
	f.Add(ask(f, "evil.example.com.", dnsmessage.TypeTXT, false))
	f.Add(ask(f, "1.0.18.198.in-addr.arpa.", dnsmessage.TypePTR, false))
	r, a, _ := newResolver(f, only("db", "*.example.org"), map[string][]string{"db": {"172.30.0.3"}})
	f.Fuzz(func(t *testing.T, m []byte) {
		a.names = nil
		reply := r.answer(t.Context(), m, stream.UDP)
		if reply != nil && (len(reply) < 12 || !bytes.Equal(reply[:2], m[:2]) || reply[2]&0x80 == 0) {
			t.Errorf("answered %x", reply)
		}
		for _, name := range a.names {
			if kind, _ := r.judge.name(name); kind == hidden {
				t.Errorf("asked for %q", name)
			}
		}
	})
}
