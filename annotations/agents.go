package annotations

import (
	"github.com/nanoclaw/nanoclaw/annotations/document"
)

// Agent is an entry of the agents' list: one permission profile.
type Agent struct {
	Name string
	// Granted are the names of the tools it has.
	Granted []string
	Tests   []Test
	Origin

	request
	line int
}

// Line is the entry's line in the policy file.
func (a *Agent) Line() int { return a.line }

// agents reads the list.
func (r *reader) agents(n *document.Node, f *File) {
	r.layer = LayerAgent
	defer func() { r.subject = "" }()
	r.list(n, "agents", func(n *document.Node) {
		r.subject = "agent: "
		a := Agent{Origin: r.origin(n), line: n.Line}
		if named := n.Get("name"); named != nil && named.Kind == document.Text && name.MatchString(named.Text) {
			a.Name, r.subject = named.Text, "agent "+named.Text+": "
		}
		r.agent(n, &a)
		f.Agents = append(f.Agents, a)
		r.subject = ""
	})
}

func (r *reader) agent(n *document.Node, a *Agent) {
	q := &a.request
	q.entry = true
	known := r.shared(q)
	known["name"] = func(n *document.Node) { r.name(n, "the name") }
	// There is one runtime, and one kind of VM: the keys say what the reader of
	// the file has to know, and would have to change if there were others.
	known["runtime"] = func(n *document.Node) { r.word(n, "runtime", "sandbox") }
	known["vm"] = func(n *document.Node) { r.word(n, "vm", "micro") }
	known["tools"] = func(n *document.Node) { r.tools(n, q) }
	known["readonly_tools"] = func(n *document.Node) { r.readonlyTools(n, q) }
	known["tests"] = func(n *document.Node) { r.tests(n, a) }
	r.object(n, "an agent", known)
	if n.Kind == document.Object && n.Get("name") == nil {
		r.bad(n.Line, "an agent has no name", "add one")
	}
	if len(q.tools) == 0 {
		// An agent has the tools that it was granted and no others.
		q.tools = []nameList{{Origin: a.Origin}}
	}
	for _, t := range q.tools[0].Names {
		a.Granted = append(a.Granted, t.Name)
	}
	q.complete()
}

func (r *reader) tests(n *document.Node, a *Agent) {
	read := func(want Decision) func(*document.Node) {
		return func(n *document.Node) {
			r.list(n, "tests."+string(want), func(i *document.Node) {
				text, ok := r.text(i, "a test")
				if !ok {
					return
				}
				query, err := ParseQuery(text)
				if err != nil {
					r.bad(i.Line, "the test "+quote(text)+": "+err.Error(), `write it as "exec /usr/bin/git push", "mount /srv/data:/data:ro", "network example.com:443", "tool NAME" or "secret NAME"`)
					return
				}
				a.Tests = append(a.Tests, Test{Want: want, Text: text, Query: query, Line: i.Line})
			})
		}
	}
	known := fields{}
	for _, d := range decisions {
		known[string(d)] = read(d)
	}
	r.object(n, "tests", known)
}
