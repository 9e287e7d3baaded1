package sandbox

import (
	"context"
	"time"

	"github.com/containerd/log"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/shim/egress"
)

// tellEvery is how often the guest is told at most.
const tellEvery = time.Second

// teller tells the guest what its containers were not let reach, for the list of
// refusals that they read. It is a help for them and no record: what comes faster
// than it is told is left out.
type teller struct {
	queue chan *agent.Endpoint
}

func newTeller() *teller { return &teller{queue: make(chan *agent.Endpoint, agent.MaxUnreached)} }

// denied hands in what was not reached. It never waits.
func (t *teller) denied(d egress.Denial) {
	e := &agent.Endpoint{
		Time: time.Now().UnixNano(), Host: d.Host, Port: uint32(d.Port), Protocol: d.Protocol,
		Reason: &agent.ExecReason{Rule: d.Rule, Origin: d.Describe(), Why: d.Why, Instead: "do without it, or have that rule changed"},
	}
	select {
	case t.queue <- e:
	default:
	}
}

// run tells it until ctx is over.
func (t *teller) run(ctx context.Context, tell func(context.Context, *agent.UnreachedRequest) (*agent.UnreachedResponse, error)) {
	for {
		req := &agent.UnreachedRequest{}
		select {
		case e := <-t.queue:
			req.Endpoints = append(req.Endpoints, e)
		case <-ctx.Done():
			return
		}
		for more := true; more && len(req.Endpoints) < agent.MaxUnreached; {
			select {
			case e := <-t.queue:
				req.Endpoints = append(req.Endpoints, e)
			default:
				more = false
			}
		}
		if _, err := tell(ctx, req); err != nil {
			log.G(ctx).WithError(err).Debug("the guest was not told what its containers did not reach")
		}
		select {
		case <-time.After(tellEvery):
		case <-ctx.Done():
			return
		}
	}
}
