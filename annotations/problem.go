package annotations

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with a policy file, or worth a warning.
type Problem struct {
	// Where is the file's name, Line its line.
	Where string `json:"file"`
	Line  int    `json:"line"`
	// What is wrong, and what to do Instead.
	What    string `json:"what"`
	Instead string `json:"instead,omitempty"`
}

func (p Problem) String() string {
	s := fmt.Sprintf("%s:%d: %s", p.Where, p.Line, p.What)
	if p.Instead != "" {
		s += "; " + p.Instead
	}
	return s
}

// Problems is the error of a policy file: all that is wrong with it, in the
// order of the lines.
type Problems []Problem

// Error has a line for each.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

// Short is one line, for where there is room for no more: the first problem,
// and how many there are.
func (p Problems) Short() string {
	if len(p) == 1 {
		return p[0].String()
	}
	return fmt.Sprintf("%s (and %d more: run \"nanoclaw policy check\")", p[0], len(p)-1)
}

func (p Problems) sort() {
	slices.SortStableFunc(p, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
}
