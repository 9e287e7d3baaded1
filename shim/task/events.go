package task

import (
	"context"
	"time"

	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/log"
)

// eventQueue publishes events one after the other, in the order in which they
// were sent: containerd relies on it.
type eventQueue struct {
	queue chan queued
	idle  chan struct{}
}

type queued struct {
	topic string
	event events.Event
}

// publishTimeout bounds one publication. An engine that is away longer learns
// of an exit by asking.
const publishTimeout = 5 * time.Second

func newEventQueue(namespace string, p events.Publisher) *eventQueue {
	q := &eventQueue{queue: make(chan queued, 128), idle: make(chan struct{})}
	go func() {
		defer close(q.idle)
		for e := range q.queue {
			ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), namespace), publishTimeout)
			if err := p.Publish(ctx, e.topic, e.event); err != nil {
				log.G(ctx).WithError(err).Errorf("publish %s", e.topic)
			}
			cancel()
		}
	}()
	return q
}

func (q *eventQueue) send(topic string, event events.Event) {
	q.queue <- queued{topic, event}
}
