package intercept

import (
	"net/http"
	"slices"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/shim/audit"
)

// overrides are fields by which some servers take one method for another.
var overrides = []string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override"}

// writes says why a request may change something; empty: it reads.
func writes(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
	default:
		return r.Method + " can change something"
	}
	if len(r.Header["Upgrade"]) > 0 {
		return "what comes after an upgrade to another protocol cannot be judged"
	}
	if i := slices.IndexFunc(overrides, func(name string) bool { return len(r.Header[name]) > 0 }); i >= 0 {
		return "the field " + overrides[i] + " asks for another method"
	}
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 || len(r.Trailer) > 0 {
		// To a server that does not expect one it is the next request.
		return "what only reads has no body"
	}
	return ""
}

// mayOnlyRead records what an endpoint that may only be read refuses, and returns
// the rule; nil where there is none in force. r is nil where there is no request.
func (c *Conversation) mayOnlyRead(r *http.Request, why string) *annotations.Verdict {
	for _, rule := range c.readonly {
		v := annotations.Verdict{
			Decision: annotations.DecisionDeny, Rule: "readonly_tools " + rule.Endpoint.String(), Origin: rule.Origin, Why: why,
		}
		e := c.entry(audit.Network, v, r)
		if !rule.Would {
			c.owner.options.Post(e)
			return &v
		}
		e.Decision, e.Would = audit.Allow, audit.Deny
		c.owner.options.Post(e)
	}
	return nil
}
