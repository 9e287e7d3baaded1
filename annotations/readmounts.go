package annotations

import (
	"path"
	"slices"
	"strings"

	"github.com/nanoclaw/nanoclaw/annotations/document"
	"github.com/nanoclaw/nanoclaw/annotations/pattern"
)

// mounts reads {allow, readonly, hide}. The ceiling's list of what is allowed
// is of host folders, everybody else's of destinations: who writes an agent's
// entry or an annotation says what a container sees, and the ceiling says what
// the host gives.
func (r *reader) mounts(n *document.Node, q *request) {
	r.object(n, "mounts", fields{
		"allow": func(n *document.Node) {
			if r.layer == LayerCeiling {
				q.sources = append(q.sources, SourceList{Sources: r.sourceFolders(n, "mounts.allow"), Origin: r.origin(n)})
				return
			}
			r.mountsAllow(n, q)
		},
		"readonly": func(n *document.Node) { r.mountsReadonly(n, q) },
		"hide":     func(n *document.Node) { r.mountsHide(n, q) },
	})
}

// mountsAllow reads destinations, each with :ro or :rw.
func (r *reader) mountsAllow(n *document.Node, q *request) {
	a := Allow{Origin: r.origin(n)}
	r.list(n, "mounts.allow", func(i *document.Node) {
		item, ok := r.text(i, "an entry of mounts.allow")
		if !ok {
			return
		}
		dest, mode, _ := cutLast(item, ":")
		switch {
		case mode != "ro" && mode != "rw":
			r.bad(i.Line, "the entry "+quote(item)+" of mounts.allow does not end in :ro or :rw", "write it as /destination:ro or /destination:rw")
		case !cleanAbs(dest):
			r.bad(i.Line, quote(dest)+" is not the absolute path of a destination", "write it as /destination:"+mode)
		case slices.ContainsFunc(a.Destinations, func(m AllowedMount) bool { return m.Destination == dest }):
			r.bad(i.Line, quote(dest)+" is listed twice", "list it once")
		default:
			a.Destinations = append(a.Destinations, AllowedMount{Destination: dest, Write: mode == "rw", Origin: r.origin(i)})
		}
	})
	a.Destinations = canonical(a.Destinations)
	q.allow = append(q.allow, a)
}

// mountsReadonly reads "*" or destinations.
func (r *reader) mountsReadonly(n *document.Node, q *request) {
	if !r.list(n, "mounts.readonly", func(i *document.Node) {
		dest, ok := r.text(i, "an entry of mounts.readonly")
		switch {
		case !ok:
		case dest != "*" && !cleanAbs(dest):
			r.bad(i.Line, quote(dest)+" is neither * nor the absolute path of a destination", `write "*" or destinations such as /workspace`)
		default:
			q.readonly = append(q.readonly, Readonly{Destination: dest, Origin: r.origin(i)})
		}
	}) {
		return
	}
	if len(n.Items) == 0 {
		r.bad(n.Line, "mounts.readonly names nothing", `write "*" or destinations, or remove it`)
	}
	q.readonly = canonical(q.readonly)
}

// mountsHide reads patterns of paths in the container.
func (r *reader) mountsHide(n *document.Node, q *request) {
	if !r.list(n, "mounts.hide", func(i *document.Node) {
		s, ok := r.path(i, "an entry of mounts.hide")
		if ok && (s == "/" || !pattern.IsWild(s) && path.Dir(s) == "/") {
			r.bad(i.Line, quote(s)+" is not below a mount", "write it as /workspace/.env*")
			return
		}
		if ok {
			q.hide = append(q.hide, Hide{Pattern: s, Origin: r.origin(i)})
		}
	}) {
		return
	}
	if len(n.Items) == 0 {
		r.bad(n.Line, "mounts.hide names nothing", "write patterns such as /workspace/.env*, or remove it")
	}
	q.hide = canonical(q.hide)
}

// sourceFolders reads a list of {source, access}.
func (r *reader) sourceFolders(n *document.Node, what string) []AllowedSource {
	var all []AllowedSource
	r.list(n, what, func(i *document.Node) {
		s := AllowedSource{Origin: r.origin(i)}
		before := len(r.problems)
		r.object(i, "an entry of "+what, fields{
			"source": func(n *document.Node) { s.Source, _ = r.text(n, "source") },
			"access": func(n *document.Node) {
				mode, _ := r.word(n, "access", "ro", "rw")
				s.Write = mode == "rw"
			},
		})
		switch {
		case len(r.problems) > before:
		case !cleanAbs(s.Source):
			r.bad(i.Line, "the source "+quote(s.Source)+" of an entry of "+what+" is not an absolute path", "write it as {source: /srv/data, access: ro}")
		case slices.ContainsFunc(all, func(a AllowedSource) bool { return a.Source == s.Source }):
			r.bad(i.Line, quote(s.Source)+" is listed twice", "list it once")
		case i.Get("access") == nil:
			r.bad(i.Line, "the source "+quote(s.Source)+" has no access", "add access: ro or access: rw")
		default:
			all = append(all, s)
		}
	})
	return canonical(all)
}

func cleanAbs(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && len(p) <= maxText && !strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
