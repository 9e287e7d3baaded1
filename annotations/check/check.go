// Package check examines a policy file before a host uses it: what is wrong,
// what of its own tests fails, and what is worth a second look.
//
// It is pure, and it judges the file alone: what a program or a folder is on a
// host or in an image it cannot know, and says where that matters.
package check

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/nanoclaw/nanoclaw/annotations"
)

// Report is what was found.
type Report struct {
	File string `json:"file"`
	// Digest is of the file's content, for a sign-off.
	Digest string `json:"digest,omitempty"`
	Agents int    `json:"agents"`
	Tools  int    `json:"tools"`
	// Errors are what makes the file unusable, failed tests among them.
	Errors []annotations.Problem `json:"errors"`
	// Warnings do not.
	Warnings []annotations.Problem `json:"warnings"`
	Tests    []Result              `json:"tests"`
}

// Outcome is what became of a test.
type Outcome string

// The outcomes.
const (
	Passed Outcome = "passed"
	Failed Outcome = "failed"
	// Undecided is a test whose answer depends on the container.
	Undecided Outcome = "undecided"
)

// Result is one test of an agent.
type Result struct {
	Agent   string               `json:"agent"`
	Want    annotations.Decision `json:"want"`
	Test    string               `json:"test"`
	Outcome Outcome              `json:"outcome"`
	Verdict annotations.Verdict  `json:"verdict"`
	Line    int                  `json:"line"`
}

// File examines the policy file called name. Enforced is what the host's
// runtime enforces; agents that need more are warned of.
func File(name string, data []byte, enforced annotations.Enforced) *Report {
	r := &Report{File: name, Errors: []annotations.Problem{}, Warnings: []annotations.Problem{}, Tests: []Result{}}
	f, err := annotations.ParseFile(name, data)
	var problems annotations.Problems
	if errors.As(err, &problems) {
		r.Errors = problems
		return r
	}
	r.Digest, r.Agents, r.Tools = f.Digest(), len(f.Agents), len(f.Tools)
	for i := range f.Agents {
		a := &f.Agents[i]
		p, err := annotations.ForAgent(f, a.Name)
		if err != nil {
			r.error(a.Line(), "agent "+a.Name+": "+err.Error(), "")
			continue
		}
		r.test(a, p)
		r.lint(f, a, p)
		r.unenforced(a, p, enforced)
	}
	r.lintFile(f)
	for _, list := range [][]annotations.Problem{r.Errors, r.Warnings} {
		slices.SortStableFunc(list, func(a, b annotations.Problem) int { return cmp.Compare(a.Line, b.Line) })
	}
	return r
}

// OK reports whether a host can use the file.
func (r *Report) OK() bool { return len(r.Errors) == 0 }

func (r *Report) error(line int, what, instead string) {
	r.Errors = append(r.Errors, annotations.Problem{Where: r.File, Line: line, What: what, Instead: instead})
}

func (r *Report) warn(line int, what, instead string) {
	r.Warnings = append(r.Warnings, annotations.Problem{Where: r.File, Line: line, What: what, Instead: instead})
}

// test runs an agent's tests. "deny" is undecided where the program would be
// denied by what the image brings, or would not.
func (r *Report) test(a *annotations.Agent, p *annotations.Policy) {
	for _, t := range a.Tests {
		v := p.Decide(t.Query)
		result := Result{Agent: a.Name, Want: t.Want, Test: t.Text, Verdict: v, Line: t.Line, Outcome: Passed}
		switch {
		case v.Decision == t.Want:
		case t.Want == annotations.DecisionDeny && v.Decision == annotations.DecisionAllow && v.Depends != "":
			result.Outcome = Undecided
			r.warn(t.Line, fmt.Sprintf("agent %s: the test deny %q cannot be decided here: it depends on %s", a.Name, t.Text, v.Depends),
				"a rule of exec.deny would make it certain")
		default:
			result.Outcome = Failed
			r.error(t.Line, fmt.Sprintf("agent %s: the test %s %q fails: it is %s by the rule %q of the %s", a.Name, t.Want, t.Text, v.Decision, v.Rule, v.Describe()),
				"correct the rules or the test")
		}
		r.Tests = append(r.Tests, result)
	}
}

func (r *Report) unenforced(a *annotations.Agent, p *annotations.Policy, enforced annotations.Enforced) {
	for _, n := range p.Needs() {
		if !enforced.Has(n.Capability) {
			r.warn(a.Line(), fmt.Sprintf("agent %s: its rule %q of the %s needs %s, which this version of nanoclaw does not enforce: its containers are refused", a.Name, n.Rule, n.Describe(), n.Capability), "")
		}
	}
}

// Write prints the report for a person.
func (r *Report) Write(w io.Writer) error {
	out := &printer{w: w}
	for _, p := range r.Errors {
		out.line("error:   %s", p)
	}
	for _, p := range r.Warnings {
		out.line("warning: %s", p)
	}
	outcomes := map[Outcome]int{}
	for _, t := range r.Tests {
		outcomes[t.Outcome]++
	}
	if r.Digest == "" {
		out.line("%s: %s; nothing more was checked", r.File, count(len(r.Errors), "error"))
	} else {
		out.line("%s: %s, %s; %s passed, %d failed, %d undecided; %s, %s", r.File, count(r.Agents, "agent"), count(r.Tools, "tool"),
			count(outcomes[Passed], "test"), outcomes[Failed], outcomes[Undecided], count(len(r.Errors), "error"), count(len(r.Warnings), "warning"))
		out.line("sha256 %s", r.Digest)
	}
	return out.err
}

// printer remembers the first error.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
