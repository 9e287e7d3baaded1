package audit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// memory is a log in memory, which can be held up and can fail.
type memory struct {
	gate chan struct{} // nil: open

	mu      sync.Mutex
	records []Record
	fail    error
}

func (m *memory) Append(records ...Record) error {
	if m.gate != nil {
		<-m.gate
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil && len(records) > 0 {
		return m.fail
	}
	m.records = append(m.records, records...)
	return nil
}

func (m *memory) taken() []Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.records
}

func newTestRecorder(t *testing.T, m *memory, o RecorderOptions) *Recorder {
	t.Helper()
	o.Log, o.Identity.Container = m, "abc"
	if o.Burst == 0 {
		o.Burst, o.Rate = 10_000, 10_000
	}
	r := NewRecorder(o)
	t.Cleanup(r.Close)
	return r
}

func post(n int) Entry {
	return Entry{Event: Exec, Decision: Deny, Subject: &Subject{PID: n}}
}

func TestRecorderKeepsOrderAndIdentity(t *testing.T) {
	m := &memory{}
	r := newTestRecorder(t, m, RecorderOptions{})
	r.Post(post(1))
	r.Identify("sales", "digest")
	r.Post(post(2))
	if err := r.Record(context.Background(), post(3), post(4)); err != nil {
		t.Fatal(err)
	}
	got := m.taken()
	if len(got) != 4 {
		t.Fatalf("%d records were written when Record returned, want 4", len(got))
	}
	for i, rec := range got {
		agent := "sales"
		if i == 0 {
			agent = ""
		}
		if rec.Subject.PID != i+1 || rec.Container != "abc" || rec.Agent != agent || rec.Time.IsZero() {
			t.Errorf("record %d: %+v", i, rec)
		}
	}
}

func TestRecorderCountsWhatComesTooFast(t *testing.T) {
	m := &memory{}
	r := newTestRecorder(t, m, RecorderOptions{Burst: 5, Rate: 1})
	for n := range 100 {
		r.Post(post(n))
	}
	r.Dropped(7)
	// What the host does is not dropped for it.
	if err := r.Record(context.Background(), Entry{Event: Lifecycle}); err != nil {
		t.Fatal(err)
	}
	r.Close()
	var written, lost uint64
	for _, rec := range m.taken() {
		switch {
		case rec.Event == Exec:
			written++
		case rec.Event == Lost && rec.Object.Action == ActionDropped:
			lost += rec.Object.Count
		}
	}
	if written < 5 || written > 7 || written+lost != 107 {
		t.Errorf("%d written and %d lost of 107", written, lost)
	}
}

func TestRecorderSaysDropsWhileItRuns(t *testing.T) {
	m := &memory{}
	r := newTestRecorder(t, m, RecorderOptions{Burst: 1, Rate: 1})
	r.Post(post(1))
	r.Post(post(2))
	for deadline := time.Now().Add(10 * time.Second); len(m.taken()) < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the drop is not on record while the container runs")
		}
	}
	if last := m.taken()[1]; last.Event != Lost || last.Object.Count != 1 || last.Container != "abc" {
		t.Errorf("%+v", last)
	}
}

func TestPostNeverWaits(t *testing.T) {
	m := &memory{gate: make(chan struct{})}
	r := newTestRecorder(t, m, RecorderOptions{})
	begin := time.Now()
	for n := range 3 * queueLength {
		r.Post(post(n))
	}
	if time.Since(begin) > 5*time.Second {
		t.Errorf("it took %s", time.Since(begin))
	}
	close(m.gate)
	r.Close()
	total := uint64(0)
	for _, rec := range m.taken() {
		total++
		if rec.Event == Lost {
			total += rec.Object.Count - 1
		}
	}
	if total != 3*queueLength {
		t.Errorf("%d records written or counted, want %d", total, 3*queueLength)
	}
}

func TestRecordGivesUpWithItsContext(t *testing.T) {
	m := &memory{gate: make(chan struct{})}
	r := newTestRecorder(t, m, RecorderOptions{Required: true})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := r.Record(ctx, post(1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	close(m.gate)
}

func TestRecorderFailure(t *testing.T) {
	full := errors.New("the disk is full")
	for _, required := range []bool{true, false} {
		m := &memory{fail: full}
		var told atomic.Int32
		r := newTestRecorder(t, m, RecorderOptions{Required: required, Failed: func(err error) {
			if errors.Is(err, full) {
				told.Add(1)
			}
		}})
		err := r.Record(context.Background(), post(1))
		if required != errors.Is(err, full) {
			t.Errorf("required %v: Record returned %v", required, err)
		}
		r.Post(post(2))
		r.Close()
		if told.Load() != 2 {
			t.Errorf("required %v: Failed was told %d times, want 2", required, told.Load())
		}
		if err := r.Record(context.Background(), post(3)); required != errors.Is(err, ErrClosed) {
			t.Errorf("required %v: after Close: %v", required, err)
		}
	}
}

func TestRecorderFromManySides(t *testing.T) {
	m := &memory{}
	r := newTestRecorder(t, m, RecorderOptions{})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for n := range 20 {
				r.Post(post(n))
				if err := r.Record(context.Background(), post(n)); err != nil && !errors.Is(err, ErrClosed) {
					t.Error(err)
				}
				r.Identify(fmt.Sprint(n), "")
			}
		})
	}
	wg.Wait()
	r.Close()
	if got := len(m.taken()); got != 800 {
		t.Errorf("%d records, want 800", got)
	}
}
