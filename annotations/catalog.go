package annotations

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nanoclaw/nanoclaw/annotations/document"
)

// Bounds of one tool.
const (
	maxPrograms = 64
	maxSecrets  = 32
)

// Tool is an entry of the catalog: what belongs together, under one name.
type Tool struct {
	Name      string
	Risk      Risk
	Programs  []ExecRule
	Endpoints []EndpointRule
	Secrets   []Secret
	// Mounts are host folders that belong to the tool.
	Mounts []AllowedSource
	Origin
}

// catalog reads the tools: an object from name to tool.
func (r *reader) catalog(n *document.Node, f *File) {
	r.layer = LayerCatalog
	defer func() { r.subject = "" }()
	if n.Kind != document.Object {
		r.bad(n.Line, "tools is "+string(n.Kind)+" and must be an object from names to tools", "write tools: {git-push: {exec: [/usr/bin/git]}}")
		return
	}
	if len(n.Fields) > maxList {
		r.bad(n.Line, fmt.Sprintf("there are more than %d tools", maxList), "use fewer")
		return
	}
	for _, entry := range n.Fields {
		r.subject = ""
		if !name.MatchString(entry.Key) {
			r.bad(entry.Line, "the tool "+quote(entry.Key)+" has no proper name", "use at most 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit")
			continue
		}
		r.subject = "tool " + entry.Key + ": "
		t := Tool{Name: entry.Key, Risk: RiskReversible, Origin: r.at(entry.Line)}
		if entry.Value.Kind != document.Null {
			r.tool(entry.Value, &t)
		}
		f.Tools = append(f.Tools, t)
	}
}

func (r *reader) tool(n *document.Node, t *Tool) {
	r.object(n, "a tool", fields{
		"risk": func(n *document.Node) {
			if s, ok := r.word(n, "risk", string(RiskReversible), string(RiskIrreversible)); ok {
				t.Risk = Risk(s)
			}
		},
		"exec": func(n *document.Node) {
			t.Programs = r.programs(n, "exec")
			if len(t.Programs) > maxPrograms {
				r.bad(n.Line, fmt.Sprintf("it has more than %d programs", maxPrograms), "use wildcards, or two tools")
			}
			for i := range t.Programs {
				t.Programs[i].Tool = t.Name
			}
		},
		"endpoints": func(n *document.Node) {
			t.Endpoints = r.endpoints(n, "endpoints")
			for i := range t.Endpoints {
				t.Endpoints[i].Tool = t.Name
			}
		},
		"secrets": func(n *document.Node) {
			if len(n.Items) > maxSecrets {
				r.bad(n.Line, fmt.Sprintf("it has more than %d secrets", maxSecrets), "use two tools")
				return
			}
			r.list(n, "secrets", func(i *document.Node) { r.secret(i, t) })
		},
		"mounts": func(n *document.Node) { t.Mounts = r.sourceFolders(n, "mounts") },
	})
}

// secret reads {env, source, hosts}.
func (r *reader) secret(n *document.Node, t *Tool) {
	s := Secret{Tool: t.Name, Origin: r.origin(n)}
	before := len(r.problems)
	r.object(n, "a secret", fields{
		"env":    func(n *document.Node) { s.Env, _ = r.name(n, "env") },
		"source": func(n *document.Node) { s.Source = r.secretSource(n) },
		"hosts": func(n *document.Node) {
			for _, e := range r.endpoints(n, "hosts") {
				s.Hosts = append(s.Hosts, e.Endpoint)
			}
		},
	})
	if len(r.problems) > before {
		return
	}
	for _, part := range []struct {
		name    string
		missing bool
	}{{"env", s.Env == ""}, {"source", s.Source == ""}, {"hosts", len(s.Hosts) == 0}} {
		if part.missing {
			r.bad(n.Line, "a secret has no "+part.name, "write it as {env: TOKEN, source: \"file:/etc/nanoclaw/secrets/token\", hosts: [example.com]}")
		}
	}
	if slices.ContainsFunc(t.Secrets, func(o Secret) bool { return o.Env == s.Env }) {
		r.bad(n.Line, "the secret "+s.Env+" is there twice", "remove one")
	}
	t.Secrets = append(t.Secrets, s)
}

// secretSource reads where the host keeps a secret's value.
func (r *reader) secretSource(n *document.Node) string {
	s, ok := r.text(n, "source")
	if !ok {
		return ""
	}
	scheme, file, found := strings.Cut(s, ":")
	switch {
	case !found || scheme != "file":
		r.unknown(n.Line, "source "+quote(s)+" of a secret", scheme, []string{"file"})
	case !cleanAbs(file):
		r.bad(n.Line, "the source "+quote(s)+" does not name an absolute path", "write it as file:/etc/nanoclaw/secrets/token")
	default:
		return s
	}
	return ""
}
