package execgate

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
)

// fakeRing behaves as the kernel's buffer does with its reader: a flush is seen
// when the buffer is waited for, and several of them are one.
type fakeRing struct {
	mu      sync.Mutex
	changed *sync.Cond
	raw     [][]byte
	flushed bool
	// pending: a flush was seen, and is told of when the buffer is empty.
	pending bool
	closed  bool
	// emptied, unless it is nil, is called between a flush's last record and the
	// word of it.
	emptied func()
}

func newFakeRing() *fakeRing {
	r := &fakeRing{}
	r.changed = sync.NewCond(&r.mu)
	return r
}

func (r *fakeRing) Read() (ringbuf.Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		switch {
		case r.closed:
			return ringbuf.Record{}, ringbuf.ErrClosed
		case len(r.raw) > 0:
			raw := r.raw[0]
			r.raw = r.raw[1:]
			return ringbuf.Record{RawSample: raw}, nil
		case r.pending:
			r.pending = false
			if f := r.emptied; f != nil {
				r.emptied = nil
				r.mu.Unlock()
				f()
				r.mu.Lock()
			}
			return ringbuf.Record{}, ringbuf.ErrFlushed
		case r.flushed:
			r.flushed, r.pending = false, true
		default:
			r.changed.Wait()
		}
	}
}

func (r *fakeRing) set(f func()) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return ringbuf.ErrClosed
	}
	f()
	r.changed.Broadcast()
	return nil
}

func (r *fakeRing) Flush() error { return r.set(func() { r.flushed = true }) }

func (r *fakeRing) Close() error { return r.set(func() { r.closed = true }) }

// denies puts a denial of that program into the buffer.
func (r *fakeRing) denies(program string) {
	e := gateEvent{Kind: gateKindKIND_EXEC, Decision: gateDecisionDECISION_DENY}
	for i, c := range []byte(program) {
		e.Path[i] = c
	}
	var raw bytes.Buffer
	if err := binary.Write(&raw, binary.LittleEndian, &e); err != nil {
		panic(err)
	}
	_ = r.set(func() { r.raw = append(r.raw, raw.Bytes()) })
}

// told are the programs that a gate's user was told of.
type told struct {
	mu   sync.Mutex
	list []string
	// slow is how long it takes to tell of one.
	slow time.Duration
}

func (t *told) seen(d *agent.Decision, _ Reason) {
	time.Sleep(t.slow)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = append(t.list, d.GetPath())
}

func (t *told) of(program string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Contains(t.list, program)
}

func reading(r *fakeRing, to *told) *Gate {
	g := &Gate{policy: &Policy{}, seen: to.seen, reader: r, records: newQueue(), allowed: once{}, reading: make(chan struct{})}
	go g.read()
	return g
}

func TestSettleWaitsForWhatIsTakenOutAndNotYetTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, to := newFakeRing(), &told{slow: time.Second}
		g := reading(r, to)
		r.denies("/bin/a")
		// The buffer is empty again, and nobody has been told yet.
		time.Sleep(time.Millisecond)
		synctest.Wait()
		g.Settle()
		if !to.of("/bin/a") {
			t.Error("Settle came before the decision was told")
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestSettleIsNotTakenForOneThatBeganBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, to := newFakeRing(), &told{slow: time.Second}
		settled := make(chan struct{})
		var g *Gate
		// The first flush has found the buffer empty when a program is denied, and
		// its container ends.
		r.emptied = func() {
			r.denies("/bin/late")
			go func() {
				defer close(settled)
				g.Settle()
				if !to.of("/bin/late") {
					t.Error("Settle came before the decision was told")
				}
			}()
			// Let it come to wait.
			time.Sleep(time.Microsecond)
		}
		g = &Gate{policy: &Policy{}, seen: to.seen, reader: r, records: newQueue(), allowed: once{}, reading: make(chan struct{})}
		if err := r.Flush(); err != nil {
			t.Fatal(err)
		}
		go g.read()
		<-settled
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestSettleDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, to := newFakeRing(), &told{slow: time.Hour}
		g := reading(r, to)
		r.denies("/bin/a")
		began := time.Now()
		g.Settle()
		if d := time.Since(began); d != settleTime {
			t.Errorf("it took %v", d)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		<-g.reading
		began = time.Now()
		g.Settle()
		if d := time.Since(began); d != 0 {
			t.Errorf("of a closed one it took %v", d)
		}
	})
}

func TestCloseTellsWhatWasDecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, to := newFakeRing(), &told{slow: time.Millisecond}
		g := reading(r, to)
		for range 20 {
			r.denies("/bin/a")
		}
		r.denies("/bin/last")
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		if !to.of("/bin/last") {
			t.Error("it was not told")
		}
	})
}

func TestAllowedProgramsAreToldOnce(t *testing.T) {
	told := once{}
	n := 0
	for range 3 {
		for i := range maxQueued {
			if told.first(strconv.Itoa(i)) {
				n++
			}
		}
	}
	if n != maxQueued {
		t.Errorf("%d programs are told %d times", maxQueued, n)
	}
	if !told.first("one more") || len(told) != 1 {
		t.Errorf("%d are remembered", len(told))
	}
}
