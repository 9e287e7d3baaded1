package annotations

import (
	"maps"
	"slices"
	"strings"

	"github.com/nanoclaw/nanoclaw/annotations/document"
)

// request is what one layer that is written down asks for: the ceiling, an
// agent's entry, or a container's annotations.
type request struct {
	rules
	// agent is named by annotations.
	agent *nameRule
	// entry is set for an agent's own entry: its lists come on top of its tools.
	entry bool
	// runsGranted is set where programs are limited to what the agent was
	// granted, without a list of the layer's own; reachesGranted likewise.
	runsGranted, reachesGranted *Origin
}

// shared are the keys that ceiling, agents and annotations have in common.
func (r *reader) shared(q *request) fields {
	return fields{
		"exec":    func(n *document.Node) { r.exec(n, q) },
		"mounts":  func(n *document.Node) { r.mounts(n, q) },
		"network": func(n *document.Node) { r.network(n, q) },
		"secrets": func(n *document.Node) { r.secrets(n, q) },
		"limits":  func(n *document.Node) { r.limits(n, q) },
		"mode":    func(n *document.Node) { r.mode(n, q) },
	}
}

func (r *reader) secrets(n *document.Node, q *request) {
	q.secrets = append(q.secrets, r.nameList(n, "secrets"))
}

func (r *reader) tools(n *document.Node, q *request) {
	q.tools = append(q.tools, r.nameList(n, "tools"))
}

// readonlyTools reads true, false, or a list. An annotation cannot say false:
// it would take something back, or mean nothing.
func (r *reader) readonlyTools(n *document.Node, q *request) {
	if n.Kind == document.List {
		q.readonlyTools = r.nameRules(n, "readonly_tools")
		if len(n.Items) == 0 && r.layer == LayerAnnotation {
			r.bad(n.Line, "it names nothing", "write true or a list of tools, or remove it")
		}
		return
	}
	all, ok := r.yes(n, "readonly_tools")
	switch {
	case !ok:
	case all:
		q.readonlyTools = []nameRule{{Name: "*", Origin: r.origin(n)}}
	case r.layer == LayerAnnotation:
		r.bad(n.Line, "an annotation can only force tools to be read-only", "write true or a list of tools, or remove it")
	}
}

// mode reads enforce or audit. Only a file of the host may say audit.
func (r *reader) mode(n *document.Node, q *request) {
	known := []string{string(ModeEnforce)}
	if r.layer == LayerAgent {
		known = append(known, string(ModeAudit))
	}
	s, ok := r.text(n, "mode")
	switch {
	case !ok:
	case slices.Contains(known, s):
		q.mode = modeRule{Mode: Mode(s), Origin: r.origin(n)}
	case r.layer == LayerAgent:
		r.unknown(n.Line, "value "+quote(s)+" of mode", s, known)
	default:
		r.bad(n.Line, "the mode is "+quote(s)+"; "+r.article()+" can only say enforce", `write "enforce", or remove it`)
	}
}

func (r *reader) article() string {
	if r.layer == LayerAnnotation {
		return "an annotation"
	}
	return "the " + string(r.layer)
}

// complete draws the conclusions of what was read: a list of what is allowed
// closes all else.
func (q *request) complete() {
	e, n := &q.exec, &q.network
	if len(e.Allow) > 0 {
		e.Mode, e.From = stricter(execModes, e.Mode, e.From, ExecAllowlist, &e.Allow[0].Origin)
	} else if e.Mode == ExecAllowlist {
		q.runsGranted = e.From
	}
	if len(n.Allow) > 0 {
		n.Mode, n.From = stricter(networkModes, n.Mode, n.From, NetworkFiltered, &n.Allow[0].Origin)
	} else if n.Mode == NetworkFiltered {
		q.reachesGranted = n.From
	}
	// The form in which equal rules are equal.
	q.rules = rules{}.meet(q.rules)
}

func keysIn(f fields) []string { return slices.Sorted(maps.Keys(f)) }

func names(f fields) string { return strings.Join(keysIn(f), ", ") }

func first(s []string, n int) []string {
	if len(s) > n {
		return append(slices.Clone(s[:n]), "…")
	}
	return s
}
