package bypass

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/containerd/ttrpc"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/api/stream"
	"github.com/nanoclaw/nanoclaw/api/stream/streamtest"
	"github.com/nanoclaw/nanoclaw/shim/guest"
	"github.com/nanoclaw/nanoclaw/test/inguest"
)

// What a guest that was taken over sends to the shim instead of answers: each is
// what follows the first call. None of it may cost the host much, and the call
// that it comes instead of ends.

const (
	typeRequest  = 1
	typeResponse = 2
	typeData     = 3
)

func call(number uint32, kind byte, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))
	b = binary.BigEndian.AppendUint32(b, number)
	return append(append(b, kind, 0), payload...)
}

// answer is a response whose payload is the given message.
func answer(message []byte) []byte {
	const payload = 2<<3 | 2
	return append(binary.AppendUvarint([]byte{payload}, uint64(len(message))), message...)
}

// forged are floods: the first part is sent once, the second for as long as the
// shim reads.
func forged() map[string]struct{ once, again []byte } {
	return map[string]struct{ once, again []byte }{
		"truncated":            {once: call(1, typeResponse, answer([]byte("cut off")))[:12]},
		"nothing but a head":   {once: call(1, typeResponse, nil)[:9]},
		"huge length":          {once: []byte("\xff\xff\xff\xff\x00\x00\x00\x01\x02\x00"), again: make([]byte, 4096)},
		"no protocol at all":   {again: []byte("GET / HTTP/1.1\r\n\r\n")},
		"unasked answers":      {again: call(1, typeResponse, nil)},
		"answers to no call":   {again: call(4711, typeResponse, nil)},
		"requests to the host": {again: call(2, typeRequest, []byte("\x0a\x01x\x12\x01y"))},
		"data out of order":    {again: call(1, typeData, make([]byte, 1024))},
		"an unknown type":      {again: call(1, 0xee, nil)},
		"number zero":          {again: call(0, typeResponse, nil)},
		"not a message":        {once: call(1, typeResponse, answer(bytes.Repeat([]byte{0xff}, 64)))},
		// Two bytes are a decision, and a hundred times that when it was read.
		"many small decisions": {once: call(1, typeResponse, answer(bytes.Repeat([]byte{0x0a, 0x00}, 500_000)))},
	}
}

const (
	// frameMemory is what an answer may cost, in bytes: more than the longest that
	// is taken, some times over.
	frameMemory = 32 << 20
	frameTime   = 2 * time.Second
)

// said is what came of it.
type said struct {
	// ended: the call has, and not because who called lost patience.
	ended bool
	// gone: the connection is closed, so that there is no more to read.
	gone bool
	// allocated is in bytes.
	allocated uint64
}

// flood makes a call over a connection whose other end sends f.
func flood(t *testing.T, f struct{ once, again []byte }, connect func(net.Conn) (agent.AgentService, func() error)) said {
	t.Helper()
	host, there := streamtest.Pipe()
	service, closeIt := connect(host)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		defer func() { _ = there.Close() }()
		_, _ = there.Read(make([]byte, 512))
		_, err := there.Write(f.once)
		for err == nil && len(f.again) > 0 {
			_, err = there.Write(f.again)
		}
		if err == nil {
			// It says no more, and does not hang up.
			_, _ = io.Copy(io.Discard, there)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), frameTime)
	defer cancel()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := service.Decisions(ctx, &agent.DecisionsRequest{NoWait: true})
	var s said
	s.ended = ctx.Err() == nil || !errors.Is(err, context.DeadlineExceeded)
	select {
	case <-gone:
		s.gone = true
	case <-time.After(time.Second):
	}
	runtime.ReadMemStats(&after)
	s.allocated = after.TotalAlloc - before.TotalAlloc
	_ = closeIt()
	<-gone
	return s
}

func TestForgedFrames(t *testing.T) {
	if inguest.Inside() {
		t.Skip("it is about the host")
	}
	shim := func(conn net.Conn) (agent.AgentService, func() error) {
		a := guest.NewAgent(conn, nil)
		return a.RPC(), a.Close
	}
	// Without the shim's control over what comes from a guest.
	plain := func(conn net.Conn) (agent.AgentService, func() error) {
		c := ttrpc.NewClient(conn)
		return agent.NewAgentClient(c), c.Close
	}
	held := func(f struct{ once, again []byte }, s said) bool {
		return s.allocated < frameMemory && (s.gone || len(f.again) == 0)
	}
	broken := 0
	for name, f := range forged() {
		t.Run(name, func(t *testing.T) {
			if on := flood(t, f, shim); !held(f, on) {
				t.Errorf("not held: %+v", on)
			}
			off := flood(t, f, plain)
			t.Logf("without the control: %+v", off)
			if !held(f, off) {
				broken++
			}
		})
	}
	// The client's own bounds hold some of them back as well; that the shim's are needed, the others show.
	if broken < 3 {
		t.Errorf("without the control %d get through, which proves nothing", broken)
	}
}

// longFrame is longer than any frame of any stream, by one.
const longFrame = 64<<10 + 1

// forgedStreams are what a guest sends in the place of a process's output, and of its
// questions for names.
func forgedStreams() map[string][]byte {
	return map[string][]byte{
		"huge length":       []byte("\xff\xff\xff\xffx"),
		"a little too long": append(binary.BigEndian.AppendUint32(nil, longFrame), make([]byte, longFrame)...),
		"truncated":         []byte("\x00\x00\x10\x00xyz"),
		"half a length":     []byte("\x00\x00"),
	}
}

// trusting reads frames as long as they say that they are.
func trusting(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func TestForgedStreams(t *testing.T) {
	if inguest.Inside() {
		t.Skip("it is about the host")
	}
	cost := func(read func()) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		read()
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	broken := 0
	for name, in := range forgedStreams() {
		t.Run(name, func(t *testing.T) {
			output := cost(func() {
				if _, err := io.Copy(io.Discard, stream.NewReader(struct {
					io.Reader
					io.Writer
				}{bytes.NewReader(in), io.Discard})); err == nil {
					t.Error("it was taken for the output of a process")
				}
			})
			names := cost(func() {
				if _, err := stream.ReadDNS(bytes.NewReader(in)); err == nil {
					t.Error("it was taken for a question")
				}
			})
			if output > 1<<20 || names > 1<<20 {
				t.Errorf("not held: it cost %d and %d bytes", output, names)
			}
			if off := cost(func() { _, _ = trusting(bytes.NewReader(in)) }); off > 1<<20 {
				broken++
			}
		})
	}
	if broken == 0 {
		t.Error("without the control none gets through, which proves nothing")
	}
}
