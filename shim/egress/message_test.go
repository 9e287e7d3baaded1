package egress

import (
	"bytes"
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// ask makes a question as a program does.
func ask(t testing.TB, name string, kind dnsmessage.Type, edns bool) []byte {
	t.Helper()
	m, err := anew(77, dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}, edns)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// told makes a resolver's answer to a question.
func told(t testing.TB, m []byte, addrs ...string) []byte {
	t.Helper()
	reply, err := tell(m, addrs...)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

func tell(m []byte, addrs ...string) ([]byte, error) {
	q, err := parseQuestion(m)
	if err != nil {
		return nil, err
	}
	code := dnsmessage.RCodeSuccess
	if len(addrs) == 0 {
		code = dnsmessage.RCodeNameError
	}
	return q.reply(code, func(b *dnsmessage.Builder) error {
		for _, a := range addrs {
			h := dnsmessage.ResourceHeader{Name: q.q.Name, Class: dnsmessage.ClassINET, TTL: 30}
			if err := b.AResource(h, dnsmessage.AResource{A: netip.MustParseAddr(a).As4()}); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestParseQuestion(t *testing.T) {
	q, err := parseQuestion(ask(t, "Db.Example.COM.", dnsmessage.TypeA, true))
	if err != nil || q.name != "db.example.com" || q.id != 77 || !q.edns || q.size != maxAnswer {
		t.Errorf("%+v, %v", q, err)
	}
	plain := ask(t, "db.", dnsmessage.TypeA, false)
	if q, _ = parseQuestion(plain); q.size != plainAnswer || q.edns {
		t.Errorf("%+v", q)
	}
	for name, c := range map[string]struct {
		m    []byte
		want dnsmessage.RCode
	}{
		"another class":    {bytes.Replace(plain, []byte{0, 1, 0, 1}, []byte{0, 1, 0, 3}, 1), dnsmessage.RCodeRefused},
		"no question":      {append([]byte{0, 1, 1, 0, 0, 0}, make([]byte, 6)...), dnsmessage.RCodeFormatError},
		"two questions":    {append(append(append([]byte{}, plain[:4]...), 0, 2), append(plain[6:], plain[12:]...)...), dnsmessage.RCodeFormatError},
		"another opcode":   {append([]byte{0, 1, 0x28, 0}, plain[4:]...), dnsmessage.RCodeNotImplemented},
		"a name that ends": {plain[:14], dnsmessage.RCodeFormatError},
	} {
		q, err := parseQuestion(c.m)
		if err != nil || q.refused != c.want {
			t.Errorf("%s: %+v, %v", name, q, err)
		}
	}
	for name, m := range map[string][]byte{"nothing": nil, "short": {1, 2, 3}, "an answer": told(t, plain, "10.0.0.1")} {
		if _, err := parseQuestion(m); err == nil {
			t.Errorf("%s is a question", name)
		}
	}
}

func TestParseAddresses(t *testing.T) {
	asked := dnsmessage.Question{Name: dnsmessage.MustNewName("db."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	m := ask(t, "db.", dnsmessage.TypeA, false)
	a, err := parseAddresses(told(t, m, "10.0.0.1", "10.0.0.2"), 77, asked)
	if err != nil || len(a.addrs) != 2 || a.ttl.Seconds() != 30 {
		t.Errorf("%+v, %v", a, err)
	}
	if a, err := parseAddresses(told(t, m), 77, asked); err != nil || a.code != dnsmessage.RCodeNameError {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := parseAddresses(told(t, m, "10.0.0.1"), 78, asked); err == nil {
		t.Error("an answer to another question's id is taken")
	}
	if _, err := parseAddresses(told(t, ask(t, "evil.", dnsmessage.TypeA, false), "10.0.0.1"), 77, asked); err == nil {
		t.Error("an answer about another name is taken")
	}
}

func TestPoolName(t *testing.T) {
	if a, ok := poolName("5.0.18.198.in-addr.arpa"); !ok || a != netip.MustParseAddr("198.18.0.5") {
		t.Errorf("%s, %v", a, ok)
	}
	for _, s := range []string{"5.0.0.10.in-addr.arpa", "0.18.198.in-addr.arpa", "1.5.0.18.198.in-addr.arpa", "x.0.18.198.in-addr.arpa", "198.18.0.5", ""} {
		if _, ok := poolName(s); ok {
			t.Errorf("%q is of the pool", s)
		}
	}
}

// FuzzParseQuestion: what a guest asks is understood or refused, and what is
// asked anew says just what was understood.
func FuzzParseQuestion(f *testing.F) {
	f.Add(ask(f, "db.", dnsmessage.TypeA, false))
	f.Add(ask(f, "a.b.example.com.", dnsmessage.TypeAAAA, true))
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"))
	f.Fuzz(func(t *testing.T, m []byte) {
		q, err := parseQuestion(m)
		if err != nil {
			return
		}
		reply, err := q.reply(dnsmessage.RCodeNameError, nil)
		if err != nil || len(reply) < 12 || reply[2]&0x80 == 0 {
			t.Fatalf("reply %x, %v", reply, err)
		}
		if q.refused != dnsmessage.RCodeSuccess {
			return
		}
		again, err := anew(q.id, q.q, q.edns)
		if err != nil {
			t.Fatalf("%+v cannot be asked: %v", q, err)
		}
		o, err := parseQuestion(again)
		if err != nil || o.name != q.name || o.q != q.q || o.edns != q.edns {
			t.Fatalf("asked %+v for %+v, %v", o, q, err)
		}
	})
}

func FuzzParseAddresses(f *testing.F) {
	m := ask(f, "db.", dnsmessage.TypeA, false)
	f.Add(told(f, m, "10.0.0.1", "10.0.0.2"))
	f.Add(told(f, m))
	f.Fuzz(func(t *testing.T, reply []byte) {
		a, err := parseAddresses(reply, 77, dnsmessage.Question{Name: dnsmessage.MustNewName("db."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET})
		if err == nil && (len(a.addrs) > maxAddresses || a.ttl < minTTL || a.ttl > maxTTL) {
			t.Errorf("%+v", a)
		}
	})
}
