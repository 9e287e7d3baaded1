package annotations

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/nanoclaw/nanoclaw/annotations/document"
)

// Bounds of what a policy may say; a document's own are in package document.
const (
	maxList  = 500
	maxText  = 1024
	maxFound = 100
)

// reader turns values of a document into rules and collects what is wrong with
// them. It reads the policy file, the annotation io.nanoclaw.policy and every
// other annotation: there is one notation, and one place that checks it.
type reader struct {
	layer Layer
	// where says where a line is, for an [Origin].
	where func(line int) string
	// file is the name for a [Problem].
	file string
	// plain is set where every scalar is a text, as in an annotation.
	plain bool
	// subject is what is being read, such as "agent support-agent: ".
	subject  string
	problems Problems
}

func (r *reader) origin(n *document.Node) Origin { return r.at(n.Line) }

func (r *reader) at(line int) Origin { return Origin{Layer: r.layer, Where: r.where(line)} }

// bad notes a problem. A file with a great many of them is no policy file, and
// the last says that there are more.
func (r *reader) bad(line int, what, instead string) {
	if len(r.problems) == maxFound-1 {
		what, instead = "there are more problems than are shown", "correct these first"
	}
	if len(r.problems) < maxFound {
		r.problems = append(r.problems, Problem{Where: r.file, Line: line, What: r.subject + what, Instead: instead})
	}
}

// fields maps an object's keys to what reads their values.
type fields map[string]func(*document.Node)

// object reads an object that may have these keys and no others.
func (r *reader) object(n *document.Node, what string, known fields) {
	if n.Kind != document.Object {
		r.bad(n.Line, what+" is "+string(n.Kind)+" and must be an object with keys", "it can have "+names(known))
		return
	}
	for _, f := range n.Fields {
		read, ok := known[f.Key]
		switch {
		case !ok:
			r.unknown(f.Line, "key "+quote(f.Key)+" of "+what, f.Key, keysIn(known))
		case f.Value.Kind == document.Null:
			r.bad(f.Line, "the key "+quote(f.Key)+" of "+what+" has no value", "give it one, or remove it; [] is an empty list")
		default:
			read(f.Value)
		}
	}
}

// unknown notes a word that is not one of those known, with the nearest.
func (r *reader) unknown(line int, what, word string, known []string) {
	instead := "there is none"
	if near := document.Nearest(strings.ToLower(word), known); near != "" {
		instead = "did you mean " + near + "?"
	} else if len(known) > 0 {
		instead = "known are " + strings.Join(first(known, 20), ", ")
	}
	r.bad(line, "unknown "+what, instead)
}

// list reads a list, item by item.
func (r *reader) list(n *document.Node, what string, item func(*document.Node)) bool {
	if n.Kind != document.List {
		r.bad(n.Line, what+" is "+string(n.Kind)+" and must be a list", "write it in brackets: [a, b]")
		return false
	}
	if len(n.Items) > maxList {
		r.bad(n.Line, fmt.Sprintf("%s has more than %d entries", what, maxList), "use wildcards, or fewer")
		return false
	}
	for _, i := range n.Items {
		item(i)
	}
	return true
}

// text reads a text of bounded length.
func (r *reader) text(n *document.Node, what string) (string, bool) {
	switch {
	case n.Kind != document.Text:
		r.bad(n.Line, what+" is "+string(n.Kind)+" and must be a text", "put it in quotes")
		return "", false
	case len(n.Text) > maxText:
		r.bad(n.Line, fmt.Sprintf("%s is longer than %d bytes", what, maxText), "shorten it")
		return "", false
	}
	return n.Text, true
}

// word reads one of the words that are known.
func (r *reader) word(n *document.Node, what string, known ...string) (string, bool) {
	s, ok := r.text(n, what)
	if !ok {
		return "", false
	}
	for _, k := range known {
		if s == k {
			return s, true
		}
	}
	r.unknown(n.Line, "value "+quote(s)+" of "+what, s, known)
	return "", false
}

// scalar reads what may be written with or without quotes: 2, 0.5, 512m.
func (r *reader) scalar(n *document.Node, what string) (string, bool) {
	if n.Kind != document.Text && n.Kind != document.Number || len(n.Text) > maxText {
		r.bad(n.Line, what+" is "+string(n.Kind)+" and must be a number or a text", "")
		return "", false
	}
	return n.Text, true
}

// yes reads true or false.
func (r *reader) yes(n *document.Node, what string) (value, ok bool) {
	if n.Kind == document.Bool || r.plain && n.Kind == document.Text {
		switch n.Text {
		case "true":
			return true, true
		case "false":
			return false, true
		}
	}
	r.bad(n.Line, what+" is neither true nor false", "write true or false")
	return false, false
}

var name = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// name reads the name of an agent, a tool or a secret.
func (r *reader) name(n *document.Node, what string) (string, bool) {
	s, ok := r.text(n, what)
	if ok && !name.MatchString(s) {
		r.bad(n.Line, what+" "+quote(s)+" is not a name", "use at most 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit")
		return "", false
	}
	return s, ok
}

// nameRules reads a list of names.
func (r *reader) nameRules(n *document.Node, what string) []nameRule {
	var all []nameRule
	r.list(n, what, func(i *document.Node) {
		if s, ok := r.name(i, "an entry of "+what); ok {
			all = append(all, nameRule{Name: s, Origin: r.origin(i)})
		}
	})
	return canonical(all)
}

func (r *reader) nameList(n *document.Node, what string) nameList {
	return nameList{Names: r.nameRules(n, what), Origin: r.origin(n)}
}
