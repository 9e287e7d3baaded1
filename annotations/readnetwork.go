package annotations

import (
	"github.com/nanoclaw/nanoclaw/annotations/document"
	"github.com/nanoclaw/nanoclaw/annotations/pattern"
)

// network reads a mode, or {mode, allow, deny, ask}.
func (r *reader) network(n *document.Node, q *request) {
	if n.Kind == document.Text {
		r.networkMode(n, q)
		return
	}
	r.object(n, "network", fields{
		"mode":  func(n *document.Node) { r.networkMode(n, q) },
		"allow": func(n *document.Node) { r.networkAllow(n, q) },
		"deny":  func(n *document.Node) { r.networkDeny(n, q) },
		"ask":   func(n *document.Node) { r.networkAsk(n, q) },
	})
	if l := q.network; len(l.Allow) > 0 && l.From != nil && l.Mode != NetworkFiltered {
		r.bad(n.Line, "network has a list of what is allowed, and the mode "+string(l.Mode)+", which has none", "write mode: filtered, or remove the list")
	}
}

func (r *reader) networkMode(n *document.Node, q *request) {
	known := []string{string(NetworkOpen), string(NetworkFiltered), string(NetworkNone)}
	if r.layer == LayerAnnotation {
		known = known[1:]
	}
	if s, ok := r.word(n, "network", known...); ok {
		from := r.origin(n)
		q.network.Mode, q.network.From = NetworkMode(s), &from
	}
}

func (r *reader) networkAllow(n *document.Node, q *request) {
	q.network.Allow = append(q.network.Allow, EndpointList{Endpoints: r.endpoints(n, "network.allow"), Origin: r.origin(n)})
}

func (r *reader) networkDeny(n *document.Node, q *request) {
	q.network.Deny = r.endpoints(n, "network.deny")
}

func (r *reader) networkAsk(n *document.Node, q *request) {
	q.network.Ask = r.endpoints(n, "network.ask")
}

// endpoints reads a list of host[:port], or of {host, port}.
func (r *reader) endpoints(n *document.Node, what string) []EndpointRule {
	var all []EndpointRule
	r.list(n, what, func(i *document.Node) {
		if e, ok := r.endpoint(i, what); ok {
			all = append(all, EndpointRule{Endpoint: e, Origin: r.origin(i)})
		}
	})
	return canonical(all)
}

func (r *reader) endpoint(n *document.Node, what string) (e pattern.Endpoint, ok bool) {
	if n.Kind != document.Object {
		s, ok := r.text(n, "an entry of "+what)
		if !ok {
			return e, false
		}
		return r.parseEndpoint(n, what, s)
	}
	var host, port string
	before := len(r.problems)
	r.object(n, "an entry of "+what, fields{
		"host": func(n *document.Node) { host, _ = r.text(n, "host") },
		"port": func(n *document.Node) { port, _ = r.scalar(n, "port") },
	})
	if len(r.problems) > before {
		return e, false
	}
	if host == "" {
		r.bad(n.Line, "an entry of "+what+" has no host", "add one")
		return e, false
	}
	e, ok = r.parseEndpoint(n, what, host)
	if !ok || port == "" {
		return e, ok
	}
	if e.Port != 0 {
		r.bad(n.Line, "an entry of "+what+" has two ports", "write the port once")
		return e, false
	}
	return r.parseEndpoint(n, what, pattern.Endpoint{Host: e.Host}.WithPort(port))
}

func (r *reader) parseEndpoint(n *document.Node, what, s string) (pattern.Endpoint, bool) {
	e, err := pattern.ParseEndpoint(s)
	if err != nil {
		r.bad(n.Line, "an entry of "+what+", "+quote(s)+": "+err.Error(), "write it as example.com, example.com:443, *.example.com or 10.0.0.0/8")
		return e, false
	}
	return e, true
}
