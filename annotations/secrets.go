package annotations

import (
	"slices"
	"strings"

	"github.com/nanoclaw/nanoclaw/annotations/pattern"
)

// httpsPort is where a secret is used whose tool names no port of its host.
const httpsPort = 443

// Intercepts reports whether the host has to look into connections: to put
// secrets in, or to see that a tool only reads.
func (p *Policy) Intercepts() bool { return len(p.Secrets)+len(p.Network.Readonly) > 0 }

// openSecrets are an open tool's secrets that no list leaves out.
func openSecrets(t *Tool, lists []nameList) []Secret {
	var open []Secret
	for _, s := range t.Secrets {
		if lackedBy(lists, s.Env) == nil {
			s.Hosts = withPorts(s.Hosts, t)
			open = append(open, s)
		}
	}
	return open
}

// withPorts says where a secret is used at hosts that were listed without a port:
// where the tool's endpoints are.
func withPorts(hosts []pattern.Endpoint, t *Tool) []pattern.Endpoint {
	var all []pattern.Endpoint
	for _, h := range hosts {
		if h.Port != 0 {
			all = append(all, h)
			continue
		}
		found := false
		for _, e := range t.Endpoints {
			anyPort := pattern.Endpoint{Host: e.Endpoint.Host}
			if e.Endpoint.Port != 0 && (anyPort.Covers(h) || h.Covers(e.Endpoint)) {
				all, found = append(all, pattern.Endpoint{Host: h.Host, Port: e.Endpoint.Port}), true
			}
		}
		if !found {
			all = append(all, pattern.Endpoint{Host: h.Host, Port: httpsPort})
		}
	}
	slices.SortFunc(all, func(a, b pattern.Endpoint) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(all)
}

// checkSecrets refuses two values under one name: the container has one variable
// for both.
func (p *Policy) checkSecrets() error {
	for i, s := range p.Secrets {
		for _, o := range p.Secrets[:i] {
			if o.Env == s.Env && o.Source != s.Source {
				return &Refusal{
					Rule: "secret " + s.Env, Origin: s.Origin, What: "the secret " + quote(s.Env),
					Why:     "the tools " + quote(o.Tool) + " and " + quote(s.Tool) + ", which are both granted, have different values under this name",
					Instead: "rename one of them, or grant one of the tools",
				}
			}
		}
	}
	return nil
}
