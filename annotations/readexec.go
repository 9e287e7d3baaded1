package annotations

import (
	"fmt"
	"regexp"

	"github.com/nanoclaw/nanoclaw/annotations/document"
	"github.com/nanoclaw/nanoclaw/annotations/pattern"
)

// maxArgv bounds the words of one program.
const maxArgv = 16

// exec reads {mode, allow, deny, ask}.
func (r *reader) exec(n *document.Node, q *request) {
	r.object(n, "exec", fields{
		"mode":  func(n *document.Node) { r.execMode(n, q) },
		"allow": func(n *document.Node) { r.execAllow(n, q) },
		"deny":  func(n *document.Node) { r.execDeny(n, q) },
		"ask":   func(n *document.Node) { r.execAsk(n, q) },
	})
	if e := q.exec; len(e.Allow) > 0 && e.From != nil && e.Mode != ExecAllowlist {
		r.bad(n.Line, "exec has a list of what is allowed, and the mode "+string(e.Mode)+", which has none", "write mode: allowlist, or remove the list")
	}
}

func (r *reader) execMode(n *document.Node, q *request) {
	known := []string{string(ExecAny), string(ExecImage), string(ExecAllowlist)}
	if r.layer == LayerAnnotation {
		known = known[1:]
	}
	if s, ok := r.word(n, "exec.mode", known...); ok {
		from := r.origin(n)
		q.exec.Mode, q.exec.From = ExecMode(s), &from
	}
}

func (r *reader) execAllow(n *document.Node, q *request) {
	q.exec.Allow = append(q.exec.Allow, ExecList{Programs: r.programs(n, "exec.allow"), Origin: r.origin(n)})
}

func (r *reader) execDeny(n *document.Node, q *request) {
	q.exec.Deny = r.programs(n, "exec.deny")
}

func (r *reader) execAsk(n *document.Node, q *request) {
	q.exec.Ask = r.programs(n, "exec.ask")
}

// programs reads a list of paths, or of {path, argv, sha256}.
func (r *reader) programs(n *document.Node, what string) []ExecRule {
	var all []ExecRule
	r.list(n, what, func(i *document.Node) {
		if p, ok := r.program(i, what); ok {
			all = append(all, ExecRule{Program: p, Origin: r.origin(i)})
		}
	})
	return canonical(all)
}

var sha256Hex = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (r *reader) program(n *document.Node, what string) (p Program, ok bool) {
	if n.Kind != document.Object {
		p.Path, ok = r.path(n, "an entry of "+what)
		return p, ok
	}
	before := len(r.problems)
	r.object(n, "an entry of "+what, fields{
		"path": func(n *document.Node) { p.Path, ok = r.path(n, "path") },
		"argv": func(n *document.Node) {
			r.list(n, "argv", func(i *document.Node) {
				if word, ok := r.text(i, "a word of argv"); ok {
					p.Argv = append(p.Argv, word)
				}
			})
			if len(p.Argv) > maxArgv {
				r.bad(n.Line, fmt.Sprintf("argv has more than %d words", maxArgv), "name those that matter")
			}
		},
		"sha256": func(n *document.Node) {
			digest, ok := r.text(n, "sha256")
			if p.SHA256 = digest; ok && !sha256Hex.MatchString(digest) {
				r.bad(n.Line, "sha256 is not a digest", "write the 64 hexadecimal digits, in lower case, that sha256sum prints")
			}
		},
	})
	if !ok && len(r.problems) == before {
		r.bad(n.Line, "an entry of "+what+" has no path", "add one, or write the path alone")
	}
	return p, ok && len(r.problems) == before
}

// path reads an absolute path that may have wildcards.
func (r *reader) path(n *document.Node, what string) (string, bool) {
	s, ok := r.text(n, what)
	if !ok {
		return "", false
	}
	if err := pattern.CheckPath(s); err != nil {
		r.bad(n.Line, what+", "+quote(s)+": "+err.Error(), "write it as /usr/bin/git or /usr/bin/*")
		return "", false
	}
	return s, true
}
