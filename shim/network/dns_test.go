package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nanoclaw/nanoclaw/api/stream"
)

// question is a DNS message with a body that says what it is about.
func question(id uint16, body string) []byte {
	m := binary.BigEndian.AppendUint16(nil, id)
	m = append(m, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	return append(m, body...)
}

func reply(question []byte, extra ...byte) []byte {
	m := append(bytes.Clone(question), extra...)
	m[dnsFlags] |= bitResponse
	return m
}

// relay runs a relay and returns the guest's end of its stream.
func relay(t *testing.T, ask Asker) (guest net.Conn, ended <-chan error) {
	t.Helper()
	guest, host := net.Pipe()
	result := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { result <- RelayDNSTo(ctx, host, ask) }()
	t.Cleanup(func() {
		cancel()
		_ = guest.Close()
	})
	if err := guest.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return guest, result
}

func awaitEnd(t *testing.T, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("the relay did not end")
		return nil
	}
}

func TestRelayPairsAnswers(t *testing.T) {
	first := make(chan struct{})
	guest, ended := relay(t, func(_ context.Context, m stream.DNSMessage) ([]byte, error) {
		switch m.Tag {
		case 1:
			// The second overtakes it.
			<-first
		case 2:
			defer close(first)
		case 3:
			return nil, errors.New("no answer")
		}
		return reply(m.Message), nil
	})
	r := io.Reader(guest)
	go func() {
		for tag := range uint32(3) {
			_ = stream.WriteDNS(guest, stream.DNSMessage{Tag: tag + 1, Transport: stream.TCP, Message: question(uint16(tag), "x")})
		}
		// An answer is no question.
		_ = stream.WriteDNS(guest, stream.DNSMessage{Tag: 9, Message: reply(question(9, "x"))})
	}()
	got := map[uint32]stream.DNSMessage{}
	for range 3 {
		m, err := stream.ReadDNS(r)
		if err != nil {
			t.Fatal(err)
		}
		got[m.Tag] = m
	}
	for tag := range uint32(2) {
		m := got[tag+1]
		if m.Transport != stream.TCP || !bytes.Equal(m.Message, reply(question(uint16(tag), "x"))) {
			t.Errorf("tag %d: %v", tag+1, m)
		}
	}
	failed := got[3].Message
	if !answers(failed, question(2, "x")) || failed[dnsRCode]&bitsRCode != serverFailed || !bytes.HasSuffix(failed, []byte("x")) {
		t.Errorf("no server failure: %x", failed)
	}
	if err := guest.Close(); err != nil {
		t.Fatal(err)
	}
	if err := awaitEnd(t, ended); err != nil {
		t.Error(err)
	}
}

func TestRelayIsBounded(t *testing.T) {
	var now, most atomic.Int32
	guest, ended := relay(t, func(ctx context.Context, m stream.DNSMessage) ([]byte, error) {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	wrote := 0
	_ = guest.SetWriteDeadline(time.Now().Add(2 * time.Second))
	for range 4 * maxQuestions {
		if err := stream.WriteDNS(guest, stream.DNSMessage{Message: question(1, "x")}); err != nil {
			break
		}
		wrote++
	}
	// One more is read and waits, and a buffer's worth lies before it.
	if most := most.Load(); most > maxQuestions {
		t.Errorf("%d questions at once", most)
	}
	if wrote == 4*maxQuestions {
		t.Error("the guest was not held back")
	}
	_ = guest.Close()
	if err := awaitEnd(t, ended); err != nil {
		t.Error(err)
	}
}

func TestRelayEndsOnBrokenFrames(t *testing.T) {
	for name, raw := range map[string][]byte{
		"too long":      {0xff, 0xff, 0xff, 0xff},
		"too short":     {0, 0, 0, 3, 1, 2, 3},
		"bad transport": append([]byte{0, 0, 0, 17, 0, 0, 0, 0, 7}, make([]byte, 12)...),
	} {
		t.Run(name, func(t *testing.T) {
			guest, ended := relay(t, func(context.Context, stream.DNSMessage) ([]byte, error) {
				t.Error("was asked")
				return nil, errors.New("no")
			})
			if _, err := guest.Write(raw); err != nil {
				t.Fatal(err)
			}
			if err := awaitEnd(t, ended); !errors.Is(err, stream.ErrFrame) {
				t.Errorf("got %v", err)
			}
			if _, err := guest.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("the stream is open: %v", err)
			}
		})
	}
}

func TestRelayEndsWithContext(t *testing.T) {
	guest, host := net.Pipe()
	defer func() { _ = guest.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- RelayDNSTo(ctx, host, func(ctx context.Context, _ stream.DNSMessage) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
	}()
	if err := stream.WriteDNS(guest, stream.DNSMessage{Message: question(1, "x")}); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := awaitEnd(t, ended); err != nil {
		t.Error(err)
	}
}

func TestFit(t *testing.T) {
	small := reply(question(1, "x"))
	if !bytes.Equal(fit(small), small) {
		t.Error("a small answer was changed")
	}
	big := fit(reply(question(1, "x"), make([]byte, stream.MaxDNSMessage)...))
	if len(big) != dnsHeaderSize || big[dnsFlags]&bitTruncated == 0 || !answers(big, question(1, "")) {
		t.Errorf("%x", big)
	}
}

// fakeDocker answers on 127.0.0.11 in ns as Docker's resolver does: a name of
// its own at once, all else by asking upstream from where it is.
func fakeDocker(t *testing.T, ns *Namespace, upstream string) {
	t.Helper()
	var p net.PacketConn
	var l net.Listener
	err := ns.Do(func() (err error) {
		if p, err = net.ListenPacket("udp", "127.0.0.11:53"); err != nil {
			return err
		}
		l, err = net.Listen("tcp", "127.0.0.11:53")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	resolve := func(m []byte) []byte {
		if bytes.HasSuffix(m, []byte("silent")) {
			return nil
		}
		if !bytes.HasSuffix(m, []byte("external")) {
			return reply(m, []byte("docker")...)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		got, err := ask(ctx, ns, netip.MustParseAddrPort(upstream), stream.DNSMessage{Message: m})
		if err != nil {
			return failure(m)
		}
		return got
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			m := bytes.Clone(buf[:n])
			wg.Go(func() {
				// Noise first: it must not be taken for the answer.
				_, _ = p.WriteTo([]byte("short"), from)
				_, _ = p.WriteTo(reply(question(0xffff, "other")), from)
				if a := resolve(m); a != nil {
					_, _ = p.WriteTo(a, from)
				}
			})
		}
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				var length [2]byte
				if _, err := io.ReadFull(c, length[:]); err != nil {
					return
				}
				m := make([]byte, binary.BigEndian.Uint16(length[:]))
				if _, err := io.ReadFull(c, m); err != nil {
					return
				}
				a := reply(m, make([]byte, 20000)...)
				_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
			})
		}
	})
	t.Cleanup(func() {
		_ = p.Close()
		_ = l.Close()
		wg.Wait()
	})
}

func TestRelayToDocker(t *testing.T) {
	tn := newTestnet(t)
	tn.dualStack()
	tn.wire()
	var upstream net.PacketConn
	tn.must(tn.outer.Do(func() (err error) {
		upstream, err = net.ListenPacket("udp", "203.0.113.9:53")
		return err
	}))
	defer func() { _ = upstream.Close() }()
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := upstream.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = upstream.WriteTo(reply(buf[:n], []byte("upstream")...), from)
		}
	}()
	fakeDocker(t, tn.inner, "203.0.113.9:53")

	guest, host := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- RelayDNS(context.Background(), tn.inner, host) }()
	for _, tc := range []struct {
		name      string
		transport stream.Transport
		body      string
		want      string
	}{
		{"a name of Docker's", stream.UDP, "db", "dbdocker"},
		{"an external name", stream.UDP, "external", "externalupstream"},
		{"over TCP", stream.TCP, "db", string(append([]byte("db"), make([]byte, 20000)...))},
	} {
		begun := time.Now()
		q := stream.DNSMessage{Tag: 5, Transport: tc.transport, Message: question(77, tc.body)}
		if err := stream.WriteDNS(guest, q); err != nil {
			t.Fatal(err)
		}
		m, err := stream.ReadDNS(guest)
		if err != nil {
			t.Fatal(err)
		}
		if m.Tag != 5 || m.Transport != tc.transport || string(m.Message[dnsHeaderSize:]) != tc.want {
			t.Errorf("%s: got %.80q", tc.name, m.Message)
		}
		t.Logf("%s: %v", tc.name, time.Since(begun))
	}
	_ = guest.Close()
	if err := awaitEnd(t, ended); err != nil {
		t.Error(err)
	}
}

func TestAskWithoutResolver(t *testing.T) {
	requireRoot(t)
	ns := newNamespace(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for _, transport := range []stream.Transport{stream.UDP, stream.TCP} {
		begun := time.Now()
		m := stream.DNSMessage{Transport: transport, Message: question(1, "x")}
		if _, err := ask(ctx, ns, netip.AddrPortFrom(resolver, resolverPort), m); err == nil {
			t.Error("somebody answered")
		}
		if time.Since(begun) > 2*time.Second {
			t.Error("a refused question waited for its time to end")
		}
	}
}

func TestAskEndsInTime(t *testing.T) {
	requireRoot(t)
	ns := newNamespace(t)
	fakeDocker(t, ns, "192.0.2.1:53")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := ask(ctx, ns, netip.AddrPortFrom(resolver, resolverPort), stream.DNSMessage{Message: question(1, "silent")})
	if err == nil {
		t.Error("somebody answered")
	}
}

// FuzzRelay feeds a relay what a hostile guest may send. It must end, and never
// ask what is no question.
func FuzzRelay(f *testing.F) {
	var good bytes.Buffer
	_ = stream.WriteDNS(&good, stream.DNSMessage{Tag: 1, Message: question(1, "x")})
	f.Add(good.Bytes())
	_ = stream.WriteDNS(&good, stream.DNSMessage{Tag: 2, Transport: stream.TCP, Message: reply(question(1, "x"))})
	f.Add(good.Bytes())
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		guest, host := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, guest) }()
		go func() {
			_, _ = guest.Write(raw)
			_ = guest.Close()
		}()
		_ = RelayDNSTo(t.Context(), host, func(_ context.Context, m stream.DNSMessage) ([]byte, error) {
			if !isQuestion(m.Message) {
				t.Errorf("asked %x", m.Message)
			}
			if len(m.Message)%2 == 0 {
				return nil, errors.New("no answer")
			}
			return reply(m.Message), nil
		})
	})
}
