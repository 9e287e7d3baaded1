package sandbox

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nanoclaw/nanoclaw/annotations"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/shim/egress"
)

// However much a guest tries, it is told once a second, and nobody waits for it.
func TestTellerIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		tl := newTeller()
		denial := egress.Denial{Host: "db", Port: 5432, Protocol: "tcp", Verdict: annotations.Verdict{
			Rule: "network.allow", Origin: annotations.Origin{Layer: annotations.LayerAnnotation, Where: "io.nanoclaw.network.allow"}, Why: "db is not in the list",
		}}
		var told []*agent.UnreachedRequest
		done := make(chan struct{})
		go func() {
			defer close(done)
			tl.run(ctx, func(_ context.Context, r *agent.UnreachedRequest) (*agent.UnreachedResponse, error) {
				told = append(told, r)
				return nil, errors.New("the guest does not listen")
			})
		}()
		tl.denied(denial)
		synctest.Wait()
		for range 10 * agent.MaxUnreached {
			tl.denied(denial)
		}
		time.Sleep(tellEvery + time.Millisecond)
		synctest.Wait()
		cancel()
		<-done
		if len(told) != 2 || len(told[0].Endpoints) != 1 || len(told[1].Endpoints) != agent.MaxUnreached {
			t.Fatalf("told %d times: %v", len(told), told)
		}
		e := told[0].Endpoints[0]
		if e.Host != "db" || e.Port != 5432 || e.Protocol != "tcp" || e.Reason.Rule != "network.allow" || e.Reason.Origin != denial.Describe() || e.Reason.Why == "" || e.Reason.Instead == "" {
			t.Errorf("told %v", e)
		}
	})
}
