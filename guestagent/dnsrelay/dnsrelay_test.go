package dnsrelay

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nanoclaw/nanoclaw/api/stream"
)

// question asks for the A record of a.b.
func question(id uint16) []byte {
	q := binary.BigEndian.AppendUint16(nil, id)
	q = append(q, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0)
	return append(q, 1, 'a', 1, 'b', 0, 0, 1, 0, 1)
}

func answered(q []byte) []byte {
	a := bytes.Clone(q)
	a[2] |= flagResponse
	return a
}

type served struct {
	*Relay
	udp net.Conn
	tcp string
}

func serve(t *testing.T) served {
	t.Helper()
	r := New()
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.Serve(udp, tcp)
	client, err := net.Dial("udp4", udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _, _ = client.Close(), udp.Close(), tcp.Close() })
	_ = client.SetDeadline(time.Now().Add(10 * time.Second))
	return served{r, client, tcp.Addr().String()}
}

// host attaches a host that answers with reply.
func (s served) host(t *testing.T, reply func(stream.DNSMessage) []stream.DNSMessage) {
	t.Helper()
	guest, host := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Attach(guest)
	}()
	go func() {
		for {
			m, err := stream.ReadDNS(host)
			if err != nil {
				return
			}
			for _, a := range reply(m) {
				if stream.WriteDNS(host, a) != nil {
					return
				}
			}
		}
	}()
	t.Cleanup(func() {
		_ = host.Close()
		<-done
	})
	for {
		s.mu.Lock()
		attached := s.Relay.host == guest
		s.mu.Unlock()
		if attached {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func answerAll(m stream.DNSMessage) []stream.DNSMessage {
	m.Message = answered(m.Message)
	return []stream.DNSMessage{m}
}

func (s served) ask(t *testing.T, q []byte) []byte {
	t.Helper()
	if _, err := s.udp.Write(q); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 512)
	n, err := s.udp.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

func TestUDP(t *testing.T) {
	s := serve(t)
	s.host(t, answerAll)
	if got, want := s.ask(t, question(7)), answered(question(7)); !bytes.Equal(got, want) {
		t.Errorf("answer %x, want %x", got, want)
	}
}

func TestNoHostIsAFailureAtOnce(t *testing.T) {
	s := serve(t)
	got := s.ask(t, question(9))
	if !answers(got, question(9)) || got[3]&0xf != servfail || !bytes.Equal(got[headerLen:], question(9)[headerLen:]) {
		t.Errorf("answer %x", got)
	}
}

func TestHostThatHangsUpIsReplaced(t *testing.T) {
	s := serve(t)
	guest, host := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Attach(guest)
	}()
	_ = host.Close()
	<-done
	s.host(t, answerAll)
	if got := s.ask(t, question(1)); got[3]&0xf == servfail {
		t.Errorf("answer %x", got)
	}
}

func TestAnswerToAnotherQuestionIsAFailure(t *testing.T) {
	s := serve(t)
	s.host(t, func(m stream.DNSMessage) []stream.DNSMessage {
		stray := m
		stray.Tag += 1000
		stray.Message = answered(question(3))
		m.Message = answered(question(4))
		return []stream.DNSMessage{stray, m}
	})
	if got := s.ask(t, question(3)); got[3]&0xf != servfail || got[1] != 3 {
		t.Errorf("answer %x", got)
	}
}

func TestWhatIsNoQuestionIsNotAnswered(t *testing.T) {
	s := serve(t)
	s.host(t, answerAll)
	for _, junk := range [][]byte{{}, {1, 2, 3}, answered(question(5))} {
		if _, err := s.udp.Write(junk); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.ask(t, question(6)); got[1] != 6 {
		t.Errorf("answer %x", got)
	}
}

func TestTCPAndManyAtOnce(t *testing.T) {
	s := serve(t)
	s.host(t, func(m stream.DNSMessage) []stream.DNSMessage {
		if m.Transport != stream.TCP {
			t.Errorf("transport %d", m.Transport)
		}
		return answerAll(m)
	})
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			conn, err := net.Dial("tcp4", s.tcp)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = conn.Close() }()
			for i := range 10 {
				q := question(uint16(c<<8 | i))
				if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)); err != nil {
					t.Error(err)
					return
				}
				a := make([]byte, 2+len(q))
				if _, err := io.ReadFull(conn, a); err != nil || !bytes.Equal(a[2:], answered(q)) {
					t.Errorf("answer %x, %v", a, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func FuzzFailure(f *testing.F) {
	f.Add(question(1))
	f.Add(question(1)[:headerLen])
	f.Add(append(question(1)[:headerLen], 0xc0, 0x0c))
	f.Fuzz(func(t *testing.T, in []byte) {
		if !isQuestion(in) {
			return
		}
		a := failure(in)
		if !answers(a, in) || len(a) > headerLen+255+5 {
			t.Errorf("failure(%x) = %x", in, a)
		}
	})
}

func FuzzReadTCP(f *testing.F) {
	f.Add(append([]byte{0, 21}, question(1)...))
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := readTCP(bytes.NewReader(in))
		if err == nil && !isQuestion(m) {
			t.Errorf("accepted %x", m)
		}
	})
}
