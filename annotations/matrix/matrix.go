// Package matrix shows a policy file as a table: what each agent has, of all
// the tools, mounts and hosts that the file names, and how two files differ.
//
// It is pure. A cell is what the effective policy decides, not what an entry
// says: the ceiling and the agent's other rules are in it.
package matrix

import (
	"slices"
	"strings"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/annotations/pattern"
)

// Kind is what a row is about.
type Kind string

// The kinds, in the order of the table.
const (
	Setting Kind = "setting"
	Tool    Kind = "tool"
	Mount   Kind = "mount"
	Host    Kind = "host"
)

// Row is one thing and what each agent has of it.
type Row struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name"`
	// Cells are in the order of the agents.
	Cells []Cell `json:"cells"`
}

// Cell is what one agent has.
type Cell struct {
	// Value is allow, ask or deny; ro, rw or deny of a mount; a setting's value.
	Value string `json:"value"`
	// Rule made it so; From is where it is written.
	Rule string `json:"rule,omitempty"`
	From string `json:"from,omitempty"`
}

// Matrix is the table.
type Matrix struct {
	File   string   `json:"file"`
	Agents []string `json:"agents"`
	Rows   []Row    `json:"rows"`
}

// others is the row about all that the file does not name.
const others = "(anything else)"

// New makes the table of a file. An agent whose policy does not compile is an
// error: the file is to be checked first.
func New(f *annotations.File) (*Matrix, error) {
	m := &Matrix{File: f.Name, Agents: []string{}, Rows: []Row{}}
	var policies []*annotations.Policy
	for _, a := range f.Agents {
		p, err := annotations.ForAgent(f, a.Name)
		if err != nil {
			return nil, err
		}
		m.Agents = append(m.Agents, a.Name)
		policies = append(policies, p)
	}
	add := func(kind Kind, name string, cell func(*annotations.Policy) Cell) {
		row := Row{Kind: kind, Name: name, Cells: []Cell{}}
		for _, p := range policies {
			row.Cells = append(row.Cells, cell(p))
		}
		m.Rows = append(m.Rows, row)
	}
	for _, s := range settings {
		add(Setting, s.name, s.cell)
	}
	for _, t := range f.Tools {
		add(Tool, t.Name, func(p *annotations.Policy) Cell { return tool(p, t.Name) })
	}
	for _, source := range sources(f) {
		add(Mount, source, func(p *annotations.Policy) Cell { return mount(p, source) })
	}
	add(Mount, others, otherMounts)
	for _, e := range hosts(f, policies) {
		add(Host, e.String(), func(p *annotations.Policy) Cell { return host(p, e) })
	}
	add(Host, others, otherHosts)
	return m, nil
}

// settings are what is not about one thing.
var settings = []struct {
	name string
	cell func(*annotations.Policy) Cell
}{
	{"mode", func(p *annotations.Policy) Cell { return setting(string(p.Mode), p.From) }},
	{"exec", func(p *annotations.Policy) Cell { return setting(string(p.Exec.Mode), p.Exec.From) }},
	{"network", func(p *annotations.Policy) Cell { return setting(string(p.Network.Mode), p.Network.From) }},
	{"cpus", func(p *annotations.Policy) Cell { return limit("cpus", p.Limits.CPUs) }},
	{"memory", func(p *annotations.Policy) Cell { return limit("memory", p.Limits.Memory) }},
	{"pids", func(p *annotations.Policy) Cell { return limit("pids", p.Limits.Pids) }},
	{"lifetime", func(p *annotations.Policy) Cell { return limit("lifetime", p.Limits.Lifetime) }},
}

func setting(value string, from *annotations.Origin) Cell {
	if from == nil {
		return Cell{Value: value, From: string(annotations.LayerBaseline)}
	}
	return Cell{Value: value, From: from.Describe()}
}

func limit(name string, l *annotations.Limit) Cell {
	if l == nil {
		return Cell{Value: "any", From: string(annotations.LayerBaseline)}
	}
	return Cell{Value: annotations.FormatLimit(name, l.Value), From: l.Describe()}
}

func tool(p *annotations.Policy, name string) Cell {
	v := p.Decide(query("tool " + name))
	c := cell(v)
	for _, t := range p.Tools.Open {
		if t.Name == name && t.Readonly != nil {
			c.Value += " ro"
		}
	}
	return c
}

// query parses what this package has put together itself.
func query(s string) annotations.Query {
	q, err := annotations.ParseQuery(s)
	if err != nil {
		panic("matrix: " + err.Error())
	}
	return q
}

func cell(v annotations.Verdict) Cell {
	return Cell{Value: string(v.Decision), Rule: v.Rule, From: v.Describe()}
}

// sources are the host folders that the file names.
func sources(f *annotations.File) []string {
	var all []string
	for _, l := range f.CeilingSources() {
		for _, s := range l.Sources {
			all = append(all, s.Source)
		}
	}
	for _, t := range f.Tools {
		for _, m := range t.Mounts {
			all = append(all, m.Source)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// mount says how a host folder can be mounted, at a destination that is allowed.
func mount(p *annotations.Policy, source string) Cell {
	free := *p
	free.Mounts.Allow = nil
	const somewhere = "/nanoclaw-matrix"
	m := annotations.Mount{Destination: somewhere, Source: annotations.Source{Asked: source, Path: source, Kind: annotations.KindDir}}
	writing := free.DecideMount(m)
	if writing.Decision == annotations.DecisionAllow {
		if free.ReadOnly(somewhere) {
			return Cell{Value: "ro", Rule: "mounts.readonly", From: readonlyFrom(p)}
		}
		return Cell{Value: "rw", Rule: writing.Rule, From: writing.Describe()}
	}
	m.ReadOnly = true
	if reading := free.DecideMount(m); reading.Decision == annotations.DecisionAllow {
		return Cell{Value: "ro", Rule: writing.Rule, From: writing.Describe()}
	}
	return cell(writing)
}

func readonlyFrom(p *annotations.Policy) string {
	for _, r := range p.Mounts.Readonly {
		if r.Destination == "*" {
			return r.Describe()
		}
	}
	return string(annotations.LayerBaseline)
}

func otherMounts(p *annotations.Policy) Cell {
	if len(p.Mounts.Sources) > 0 {
		return Cell{Value: string(annotations.DecisionDeny), Rule: "ceiling.mounts.allow", From: p.Mounts.Sources[0].Describe()}
	}
	if from := readonlyFrom(p); p.ReadOnly("/nanoclaw-matrix") {
		return Cell{Value: "ro", Rule: "mounts.readonly", From: from}
	}
	return Cell{Value: "rw", Rule: "mounts", From: string(annotations.LayerBaseline)}
}

// hosts are the endpoints that the file names.
func hosts(f *annotations.File, policies []*annotations.Policy) []pattern.Endpoint {
	seen := map[pattern.Endpoint]bool{}
	note := func(rules []annotations.EndpointRule) {
		for _, r := range rules {
			seen[r.Endpoint] = true
		}
	}
	for _, t := range f.Tools {
		note(t.Endpoints)
	}
	for _, p := range policies {
		note(p.Network.Deny)
		note(p.Network.Ask)
		for _, l := range p.Network.Allow {
			note(l.Endpoints)
		}
	}
	var all []pattern.Endpoint
	for e := range seen {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b pattern.Endpoint) int { return strings.Compare(a.String(), b.String()) })
	return all
}

// host says what becomes of an endpoint, or of all that a pattern stands for.
func host(p *annotations.Policy, e pattern.Endpoint) Cell {
	return cell(p.Network.DecideAll(e))
}

func otherHosts(p *annotations.Policy) Cell {
	c := Cell{Value: string(annotations.DecisionAllow), Rule: "network " + string(p.Network.Mode), From: string(annotations.LayerBaseline)}
	if p.Network.From != nil {
		c.From = p.Network.From.Describe()
	}
	if p.Network.Mode != annotations.NetworkOpen {
		c.Value = string(annotations.DecisionDeny)
	}
	return c
}
