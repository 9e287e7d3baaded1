package matrix

import (
	"io"
	"slices"
	"strings"
)

// Change is a cell that differs between two files.
type Change struct {
	Agent  string `json:"agent"`
	Kind   Kind   `json:"kind"`
	Name   string `json:"name"`
	Before string `json:"before"`
	After  string `json:"after"`
	// Direction is "wider", "narrower", or "changed" where neither can be said.
	Direction string `json:"direction"`
	From      string `json:"from,omitempty"`
}

// absent stands for an agent, or a row, that is not there.
const absent = "-"

// Diff returns what differs, agent by agent. What only one of the files names is
// compared with what the other says about anything else.
func Diff(before, after *Matrix) []Change {
	changes := []Change{}
	agents := slices.Clone(before.Agents)
	for _, a := range after.Agents {
		if !slices.Contains(agents, a) {
			agents = append(agents, a)
		}
	}
	for _, agent := range agents {
		for _, row := range rowsOf(before, after) {
			b, a := before.at(row, agent), after.at(row, agent)
			if b.Value == a.Value {
				continue
			}
			changes = append(changes, Change{
				Agent: agent, Kind: row.Kind, Name: row.Name, Before: b.Value, After: a.Value,
				Direction: direction(row, b.Value, a.Value), From: a.From,
			})
		}
	}
	return changes
}

// rowsOf are the rows of both, without cells.
func rowsOf(before, after *Matrix) []Row {
	var rows []Row
	for _, kind := range []Kind{Setting, Tool, Mount, Host} {
		for _, m := range []*Matrix{before, after} {
			for _, r := range m.Rows {
				if r.Kind == kind && !slices.ContainsFunc(rows, func(o Row) bool { return o.Kind == kind && o.Name == r.Name }) {
					rows = append(rows, Row{Kind: r.Kind, Name: r.Name})
				}
			}
		}
	}
	return rows
}

func (m *Matrix) at(row Row, agent string) Cell {
	column := slices.Index(m.Agents, agent)
	if column < 0 {
		return Cell{Value: absent}
	}
	for _, name := range []string{row.Name, others} {
		for _, r := range m.Rows {
			if r.Kind == row.Kind && r.Name == name {
				return r.Cells[column]
			}
		}
	}
	return Cell{Value: absent}
}

// orders are values from the widest to the narrowest.
var orders = map[Kind][]string{
	Tool:  {"allow", "allow ro", "ask", "ask ro", "deny", absent},
	Mount: {"rw", "ro", "deny", absent},
	Host:  {"allow", "ask", "partly", "deny", absent},
}

var settingOrders = map[string][]string{
	"mode":    {"audit", "enforce"},
	"exec":    {"any", "image", "allowlist"},
	"network": {"open", "filtered", "none"},
}

func direction(row Row, before, after string) string {
	order := orders[row.Kind]
	if row.Kind == Setting {
		order = settingOrders[row.Name]
	}
	b, a := slices.Index(order, before), slices.Index(order, after)
	switch {
	case b < 0 || a < 0:
		return "changed"
	case a < b:
		return "wider"
	}
	return "narrower"
}

// WriteDiff writes changes.
func WriteDiff(w io.Writer, changes []Change, format Format) error {
	if format == JSON {
		return writeJSON(w, changes)
	}
	rows := [][]string{{"agent", "kind", "name", "before", "after", "change"}}
	for _, c := range changes {
		rows = append(rows, []string{c.Agent, string(c.Kind), c.Name, c.Before, c.After, strings.ToUpper(c.Direction)})
	}
	return table(w, format, rows)
}
