package task

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/log"
)

// eventQueue publishes events one after the other, in the order in which they
// were sent: containerd relies on it. Sending never waits for containerd.
type eventQueue struct {
	mu      sync.Mutex
	pending []queued
	closed  bool
	// more has a token when there may be something new to look at.
	more chan struct{}
	// idle is closed when the last event before close was published.
	idle chan struct{}
}

type queued struct {
	topic string
	event events.Event
}

// publishTimeout bounds one publication. An engine that is away longer learns
// of an exit by asking.
const publishTimeout = 5 * time.Second

func newEventQueue(namespace string, p events.Publisher) *eventQueue {
	q := &eventQueue{more: make(chan struct{}, 1), idle: make(chan struct{})}
	go func() {
		defer close(q.idle)
		for {
			e, ok := q.next()
			if !ok {
				return
			}
			ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), namespace), publishTimeout)
			if err := p.Publish(ctx, e.topic, e.event); err != nil {
				log.G(ctx).WithError(err).Errorf("publish %s", e.topic)
			}
			cancel()
		}
	}()
	return q
}

// next returns the oldest event, once there is one; none after close.
func (q *eventQueue) next() (queued, bool) {
	for {
		q.mu.Lock()
		if len(q.pending) > 0 {
			e := q.pending[0]
			q.pending = q.pending[1:]
			q.mu.Unlock()
			return e, true
		}
		closed := q.closed
		q.mu.Unlock()
		if closed {
			return queued{}, false
		}
		<-q.more
	}
}

func (q *eventQueue) send(topic string, event events.Event) {
	q.mu.Lock()
	q.pending = append(q.pending, queued{topic, event})
	q.mu.Unlock()
	q.wake()
}

func (q *eventQueue) wake() {
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// close waits until everything that was sent is published: the shim ends after
// it. Sending afterwards is in vain.
func (q *eventQueue) close(ctx context.Context) error {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.wake()
	select {
	case <-q.idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("publish the last events: %w", ctx.Err())
	}
}
