package task

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/log"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/shim/sandbox"
)

// timing is when each step of a container's start was done, by the host's
// clock. docs/performance.md says what each step holds.
type timing struct {
	// shim is when containerd's "start" began, and request when Create came.
	shim, request time.Time
	sandbox       sandbox.Timing
	// booted and called are the guest's word: what its clock showed at the
	// agent's first instruction, and the time from there to its call.
	booted, called time.Duration
	created        time.Time
	// start is when Start came, wired when the network was joined.
	start, wired, started time.Time
}

// guestSaid notes what the guest says of its boot. It may say anything, so
// neither is longer than the host saw the whole boot take.
func (t *timing) guestSaid(r *agent.CreateResponse) {
	most := t.sandbox.Agent.Sub(t.sandbox.VMM)
	bounded := func(ns uint64) time.Duration { return time.Duration(min(ns, uint64(max(0, most)))) }
	t.booted, t.called = bounded(r.GetBootedNs()), bounded(r.GetCalledNs())
}

// joined reports whether the VM was there before the container.
func (t *timing) joined() bool { return !t.sandbox.Agent.After(t.request) }

// fields are the phases of the start in the order in which they come, without a
// gap: began and their sum give the time at which the container was started. A
// container that joined a VM began with Create, and has no phases of a boot.
func (t *timing) fields() log.Fields {
	if t.joined() {
		return log.Fields{
			"began":      t.request.UTC().Format(time.RFC3339Nano),
			"create_ms":  ms(t.created.Sub(t.request)),
			"engine_ms":  ms(t.start.Sub(t.created)),
			"network_ms": ms(t.wired.Sub(t.start)),
			"start_ms":   ms(t.started.Sub(t.wired)),
		}
	}
	agentBegan := t.sandbox.Agent.Add(-t.called)
	return log.Fields{
		"began":           t.shim.UTC().Format(time.RFC3339Nano),
		"launch_ms":       ms(t.request.Sub(t.shim)),
		"prepare_ms":      ms(t.sandbox.Prepared.Sub(t.request)),
		"vmm_ms":          ms(t.sandbox.VMM.Sub(t.sandbox.Prepared)),
		"kernel_ms":       ms(agentBegan.Sub(t.sandbox.VMM)),
		"agent_ms":        ms(t.called),
		"create_ms":       ms(t.created.Sub(t.sandbox.Agent)),
		"engine_ms":       ms(t.start.Sub(t.created)),
		"network_ms":      ms(t.wired.Sub(t.start)),
		"start_ms":        ms(t.started.Sub(t.wired)),
		"guest_uptime_ms": ms(t.booted),
	}
}

// ms is a duration in milliseconds, to the microsecond.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// closing is what is told of a container when nothing of it is left: how long
// after Start its first output came, if any did, and the calls into the guest,
// which are the VM's: of all its containers up to then.
func (c *container) closing() log.Fields {
	calls := c.sandbox.Agent().CallsByMethod()
	each := make([]string, 0, len(calls))
	for _, method := range slices.Sorted(maps.Keys(calls)) {
		each = append(each, fmt.Sprintf("%s=%d", method, calls[method]))
	}
	f := log.Fields{"container": c.id, "guest_calls": c.sandbox.Agent().Calls(), "guest_methods": strings.Join(each, " ")}
	c.mu.Lock()
	start := c.timing.start
	c.mu.Unlock()
	if first := c.init.firstOutput(); !first.IsZero() && !start.IsZero() {
		f["output_ms"] = ms(first.Sub(start))
	}
	return f
}

// setStart notes when Start came: the VM may end at any time, and what is told
// then is read by another goroutine.
func (c *container) setStart(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timing.start = at
}
