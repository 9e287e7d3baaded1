package audit

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Bounds of a recorder.
const (
	// queueLength is how many entries may wait to be written.
	queueLength = 1024
	// batchLength is how many are written at once.
	batchLength = 128
	// lostDelay is how long drops are counted before they are recorded.
	lostDelay = time.Second
)

// ErrClosed is returned for entries after Close.
var ErrClosed = errors.New("the audit recorder is closed")

// appender is where records go: a *Log.
type appender interface {
	Append(records ...Record) error
}

// Identity is who a recorder's records are about.
type Identity struct {
	// Container is the container's id, Agent the agent that it was asked to run
	// as, Policy the digest of its policy. Those not known yet are empty.
	Container, Agent, Policy string
}

// RecorderOptions describe a recorder.
type RecorderOptions struct {
	Log      appender
	Identity Identity
	// Rate is how many posted entries a second are written, Burst how many may
	// come at once.
	Rate, Burst int
	// Required makes Record fail where the log cannot be written.
	Required bool
	// Failed is told of each write that failed. It must not block, nor call the
	// recorder.
	Failed func(error)
}

// Recorder writes the records of one container, in the order in which they were
// handed in. Its methods are safe for concurrent use.
type Recorder struct {
	o     RecorderOptions
	queue chan queued
	done  chan struct{}
	// dropping is sent to when something was dropped.
	dropping chan struct{}

	mu       sync.Mutex
	identity Identity
	bucket   bucket
	dropped  uint64
	closed   bool
	// senders are Records that are handing something in.
	senders sync.WaitGroup
}

// queued is records of one call, written together.
type queued struct {
	records []Record
	// result takes the outcome; nil: nobody waits.
	result chan error
}

// NewRecorder returns a recorder for a container. It must be closed.
func NewRecorder(o RecorderOptions) *Recorder {
	r := &Recorder{
		o: o, identity: o.Identity,
		queue: make(chan queued, queueLength), done: make(chan struct{}), dropping: make(chan struct{}, 1),
		bucket: bucket{rate: float64(o.Rate), size: float64(o.Burst), tokens: float64(o.Burst), at: time.Now()},
	}
	go r.run()
	return r
}

// Identify says who the container is, for what is recorded from now on.
func (r *Recorder) Identify(agent, policy string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.identity.Agent, r.identity.Policy = agent, policy
}

// Record writes entries and returns when they are on the disk. It is for what the
// host does: such entries are not limited in rate, since whoever causes them waits
// for the disk. Where the log is not required an error is told to Failed alone.
func (r *Recorder) Record(ctx context.Context, entries ...Entry) error {
	result := make(chan error, 1)
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return r.outcome(ErrClosed)
	}
	records := r.records(entries)
	r.senders.Add(1)
	r.mu.Unlock()

	err := func() error {
		defer r.senders.Done()
		select {
		case r.queue <- queued{records, result}:
			return nil
		case <-ctx.Done():
			r.drop(uint64(len(records)))
			return ctx.Err()
		}
	}()
	if err == nil {
		select {
		case err = <-result:
		case <-ctx.Done():
			// It is written nevertheless.
			err = ctx.Err()
		}
	}
	return r.outcome(err)
}

// outcome is what becomes of an error: it counts where the log is required.
func (r *Recorder) outcome(err error) error {
	if r.o.Required {
		return err
	}
	return nil
}

// Post hands in an entry of a guest. It never waits: what comes faster than it
// may, or than the disk takes it, is dropped, and the number of dropped entries is
// recorded.
func (r *Recorder) Post(e Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || !r.bucket.take(time.Now()) {
		r.dropLocked(1)
		return
	}
	select {
	case r.queue <- queued{records: r.records([]Entry{e})}:
	default:
		r.dropLocked(1)
	}
}

// Dropped says that a producer lost n entries on their way here.
func (r *Recorder) Dropped(n uint64) { r.drop(n) }

func (r *Recorder) drop(n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropLocked(n)
}

func (r *Recorder) dropLocked(n uint64) {
	if n == 0 {
		return
	}
	r.dropped += min(n, ^uint64(0)-r.dropped)
	select {
	case r.dropping <- struct{}{}:
	default:
	}
}

// records makes records of entries; the lock is held.
func (r *Recorder) records(entries []Entry) []Record {
	now := time.Now()
	records := make([]Record, len(entries))
	for i, e := range entries {
		records[i] = NewRecord(now, r.identity, e)
	}
	return records
}

// Close writes what was handed in and ends the recorder. Calling it again does
// nothing.
func (r *Recorder) Close() {
	r.mu.Lock()
	first := !r.closed
	r.closed = true
	r.mu.Unlock()
	if first {
		r.senders.Wait()
		close(r.queue)
	}
	<-r.done
}

// run writes the queue, as much at once as there is.
func (r *Recorder) run() {
	defer close(r.done)
	var late <-chan time.Time
	for {
		select {
		case first, open := <-r.queue:
			if !open {
				r.write(nil, true)
				return
			}
			r.write(r.more(first), false)
		case <-r.dropping:
			if late == nil {
				late = time.After(lostDelay)
			}
		case <-late:
			late = nil
			r.write(nil, true)
		}
	}
}

// more adds to first what else waits.
func (r *Recorder) more(first queued) []queued {
	batch := []queued{first}
	for n := len(first.records); n < batchLength; {
		select {
		case q, open := <-r.queue:
			if !open {
				return batch
			}
			batch = append(batch, q)
			n += len(q.records)
		default:
			return batch
		}
	}
	return batch
}

// write writes a batch and tells those who wait. With drops, what was dropped is
// recorded too.
func (r *Recorder) write(batch []queued, drops bool) {
	var records []Record
	for _, q := range batch {
		records = append(records, q.records...)
	}
	if drops {
		r.mu.Lock()
		if r.dropped > 0 {
			records = append(records, NewRecord(time.Now(), r.identity, Entry{Event: Lost, Object: &Object{
				Action: ActionDropped, Count: r.dropped, Detail: "they came faster than the log takes them",
			}}))
			r.dropped = 0
		}
		r.mu.Unlock()
	}
	err := r.o.Log.Append(records...)
	if err != nil && r.o.Failed != nil {
		r.o.Failed(err)
	}
	for _, q := range batch {
		if q.result != nil {
			q.result <- err
		}
	}
}

// bucket limits a rate: it holds at most size tokens, and rate more come each
// second.
type bucket struct {
	rate, size, tokens float64
	at                 time.Time
}

func (b *bucket) take(now time.Time) bool {
	b.tokens = min(b.size, b.tokens+b.rate*max(0, now.Sub(b.at).Seconds()))
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
