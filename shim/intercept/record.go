package intercept

import (
	"net/http"
	"sync"
	"time"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/shim/audit"
)

const (
	// usedEvery is how often a secret's use at a host is recorded, after the first
	// time.
	usedEvery = time.Minute
	// maxUses bounds the uses of which it is known when they were recorded.
	maxUses = 1024
)

// uses keeps what is done again and again from filling the log.
type uses struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (u *uses) due(what string, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if last, ok := u.last[what]; ok && now.Sub(last) < usedEvery {
		return false
	}
	if u.last == nil || len(u.last) >= maxUses {
		u.last = map[string]time.Time{}
	}
	u.last[what] = now
	return true
}

// entry is a record of a refusal. r is nil where there is no request.
func (c *Conversation) entry(event audit.Event, v annotations.Verdict, r *http.Request) audit.Entry {
	o := &audit.Object{Host: c.host, Port: c.port, Protocol: "tcp", Layer: string(v.Layer), Detail: v.Why}
	if r != nil {
		o.Protocol, o.Method, o.Path = c.scheme(), r.Method, r.URL.Path
	}
	return audit.Entry{Event: event, Decision: audit.Deny, Rule: v.Rule, Object: o}
}

// refused records that a connection or a request was.
func (c *Conversation) refused(v annotations.Verdict, r *http.Request) {
	c.owner.options.Post(c.entry(audit.Network, v, r))
}

// secret records what was done with a secret, once in a while.
func (c *Conversation) secret(name, action string, decision audit.Decision, r *http.Request, detail string) {
	if !c.owner.uses.due(action+" "+name+" "+c.host, time.Now()) {
		return
	}
	e := c.entry(audit.Secret, annotations.Verdict{Rule: "secret " + name, Why: detail}, r)
	e.Decision, e.Object.Action, e.Object.Name = decision, action, name
	c.owner.options.Post(e)
}

func (c *Conversation) scheme() string {
	if c.tls {
		return "https"
	}
	return "http"
}

// baselineVerdict is a refusal that no rule can take back.
func baselineVerdict(why string) annotations.Verdict {
	return annotations.Verdict{
		Decision: annotations.DecisionDeny, Rule: "network", Origin: annotations.Origin{Layer: annotations.LayerBaseline}, Why: why,
	}
}
