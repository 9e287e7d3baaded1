package annotations

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nanoclaw/nanoclaw/annotations/document"
)

// File is the host's policy file: the ceiling, the catalog of tools, and the
// agents. Only the host's root can write it. It is a value to be read.
type File struct {
	// Name is what the file is called in messages.
	Name string
	// Tools and Agents are in the order of the file.
	Tools  []Tool
	Agents []Agent

	ceiling request
	digest  string
}

// MaxFile is the largest policy file, in bytes.
const MaxFile = document.MaxBytes

// ParseFile reads a policy file. Its error is [Problems]: all that is wrong.
func ParseFile(name string, data []byte) (*File, error) {
	r := &reader{file: name, where: func(line int) string { return fmt.Sprintf("%s:%d", name, line) }}
	n, err := document.YAML(data)
	if err != nil {
		var at *document.Error
		if !errors.As(err, &at) {
			at = &document.Error{Line: 1, Text: err.Error()}
		}
		return nil, Problems{{Where: name, Line: at.Line, What: at.Text, Instead: "nothing else was checked"}}
	}
	if n.Kind == document.Null {
		n = &document.Node{Kind: document.Object, Line: n.Line}
	}
	sum := sha256.Sum256(data)
	f := &File{Name: name, digest: hex.EncodeToString(sum[:])}
	r.object(n, "the policy file", fields{
		"version": r.version,
		"ceiling": func(n *document.Node) { r.ceiling(n, f) },
		"tools":   func(n *document.Node) { r.catalog(n, f) },
		"agents":  func(n *document.Node) { r.agents(n, f) },
	})
	r.checkFile(f)
	if len(r.problems) > 0 {
		r.problems.sort()
		return nil, r.problems
	}
	return f, nil
}

func (r *reader) version(n *document.Node) {
	if s, ok := r.scalar(n, "version"); ok && s != "1" {
		r.bad(n.Line, "the version is "+quote(s)+", and this nanoclaw knows version 1", "write version: 1")
	}
}

func (r *reader) ceiling(n *document.Node, f *File) {
	r.layer, r.subject = LayerCeiling, "ceiling: "
	defer func() { r.subject = "" }()
	q := &f.ceiling
	known := r.shared(q)
	known["tools"] = func(n *document.Node) { r.tools(n, q) }
	r.object(n, "the ceiling", known)
	q.complete()
}

// Tool returns a tool of the catalog, or nil.
func (f *File) Tool(name string) *Tool {
	if f == nil {
		return nil
	}
	for i := range f.Tools {
		if f.Tools[i].Name == name {
			return &f.Tools[i]
		}
	}
	return nil
}

// CeilingSources are the host folders that the ceiling gives.
func (f *File) CeilingSources() []SourceList { return f.ceiling.sources }

// Digest identifies the file's content: the SHA-256 in hexadecimal. It changes
// with every byte, comments too: it is what a person has read and signed off.
func (f *File) Digest() string { return f.digest }

func (f *File) toolNames() []string {
	var s []string
	if f != nil {
		for _, t := range f.Tools {
			s = append(s, t.Name)
		}
	}
	return s
}

func (f *File) secretNames() []string {
	var s []string
	if f != nil {
		for _, t := range f.Tools {
			for _, secret := range t.Secrets {
				s = append(s, secret.Env)
			}
		}
	}
	return s
}

// agent returns an agent's entry, or nil.
func (f *File) agent(name string) *Agent {
	if f == nil {
		return nil
	}
	for i := range f.Agents {
		if f.Agents[i].Name == name {
			return &f.Agents[i]
		}
	}
	return nil
}

func (f *File) agentNames() []string {
	var s []string
	if f != nil {
		for _, a := range f.Agents {
			s = append(s, a.Name)
		}
	}
	return s
}

// checkFile compares the parts of the file with each other: names must be
// known, and no agent can have more than the ceiling.
func (r *reader) checkFile(f *File) {
	r.subject = "ceiling: "
	r.checkNames(f, &f.ceiling)
	seen := map[string]Origin{}
	for i := range f.Agents {
		a := &f.Agents[i]
		r.subject = "agent " + a.Name + ": "
		if first, twice := seen[a.Name]; twice {
			r.bad(a.line, "there is another agent of this name at "+first.Where, "rename one of them")
		}
		seen[a.Name] = a.Origin
		r.checkNames(f, &a.request)
		for _, x := range f.exceeds(a.rules, a) {
			r.bad(x.line(a.line), x.what, x.instead)
		}
	}
	r.subject = ""
}

// checkNames notes tools and secrets that are not in the catalog.
func (r *reader) checkNames(f *File, q *request) {
	for _, u := range f.unknownNames(q.rules) {
		r.unknown(lineOf(u.Origin, 1), u.what+" "+quote(u.Name), u.Name, u.known)
	}
}

// unknownName is a name that the catalog does not have.
type unknownName struct {
	nameRule
	what  string
	known []string
}

func (f *File) unknownNames(q rules) []unknownName {
	var all []unknownName
	look := func(what string, known []string, names []nameRule) {
		for _, n := range names {
			if n.Name != "*" && !slices.Contains(known, n.Name) {
				all = append(all, unknownName{n, what, known})
			}
		}
	}
	for _, l := range q.tools {
		look("tool", f.toolNames(), l.Names)
	}
	look("tool", f.toolNames(), q.readonlyTools)
	for _, l := range q.secrets {
		look("secret", f.secretNames(), l.Names)
	}
	return all
}

// LineOf is the line of an origin in the policy file, or 1 for one that has
// none.
func LineOf(o Origin) int { return lineOf(o, 1) }

// lineOf is the line at the end of an origin's place.
func lineOf(o Origin, otherwise int) int {
	_, text, _ := cutLast(o.Where, ":")
	line := 0
	if _, err := fmt.Sscanf(strings.TrimSpace(text), "%d", &line); err != nil || line < 1 {
		return otherwise
	}
	return line
}
