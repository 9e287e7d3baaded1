package annotations

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nanoclaw/nanoclaw/annotations/pattern"
)

// ExecMode says which programs may run at all.
type ExecMode string

// The modes, from the widest to the narrowest.
const (
	// ExecAny runs every file.
	ExecAny ExecMode = "any"
	// ExecImage runs only what came with the image.
	ExecImage ExecMode = "image"
	// ExecAllowlist runs only what came with the image and is listed.
	ExecAllowlist ExecMode = "allowlist"
)

var execModes = []ExecMode{ExecAny, ExecImage, ExecAllowlist}

// Exec are the rules about programs. The strictest of those that match decides.
type Exec struct {
	Mode ExecMode `json:"mode"`
	// From is where the mode came from; nil is the baseline.
	From *Origin `json:"from,omitempty"`
	// Allow are closed lists: a program must be in each.
	Allow []ExecList `json:"allow,omitempty"`
	Deny  []ExecRule `json:"deny,omitempty"`
	// Ask are programs that a person has to agree to.
	Ask []ExecRule `json:"ask,omitempty"`
	// Readonly are programs that, with all they start, cannot write.
	Readonly []ExecRule `json:"readonly,omitempty"`
}

// ExecList is a closed list of programs.
type ExecList struct {
	Programs []ExecRule `json:"programs"`
	Origin
}

// ExecRule is a program, and why there is a rule about it.
type ExecRule struct {
	Program
	// Tool is the tool that the program belongs to, if it does.
	Tool string `json:"tool,omitempty"`
	Origin
}

// Program is a file in the container, and which runs of it are meant.
type Program struct {
	// Path is absolute; it may have wildcards.
	Path string `json:"path"`
	// Argv are words that the arguments must contain in this order, though not
	// side by side; none: every run.
	Argv []string `json:"argv,omitempty"`
	// SHA256 is of the file's content, in hexadecimal; empty: whatever it is.
	SHA256 string `json:"sha256,omitempty"`
}

func (p Program) String() string {
	s := strings.Join(append([]string{p.Path}, p.Argv...), " ")
	if p.SHA256 != "" {
		s += " (sha256 " + p.SHA256[:min(12, len(p.SHA256))] + ")"
	}
	return s
}

// Match reports whether a run of the file at path with these arguments, without
// the program's own name, is meant. The file's content is not looked at.
func (p Program) Match(path string, argv []string) bool {
	if !pattern.MatchPath(p.Path, path) {
		return false
	}
	for _, word := range p.Argv {
		i := slices.Index(argv, word)
		if i < 0 {
			return false
		}
		argv = argv[i+1:]
	}
	return true
}

// covers reports whether p means every run that q means.
func (p Program) covers(q Program) bool {
	return pattern.CoversPath(p.Path, q.Path) &&
		(len(p.Argv) == 0 || slices.Equal(p.Argv, q.Argv)) &&
		(p.SHA256 == "" || p.SHA256 == q.SHA256)
}

func (p Program) same(q Program) bool { return p.covers(q) && q.covers(p) }

func (r ExecRule) key() string {
	return fmt.Sprintf("%q %q %q %q", r.Path, r.Argv, r.SHA256, r.Tool)
}

func (l ExecList) key() string { return keysOf(l.Programs) }

// Decide judges a run of the program at path, which is clean and absolute, with
// arguments that do not contain the program's name.
func (e *Exec) Decide(path string, argv []string) Verdict {
	what := Program{Path: path, Argv: argv}
	for _, r := range e.Deny {
		if r.Match(path, argv) {
			v := Verdict{Decision: DecisionDeny, Rule: "exec.deny " + r.String(), Origin: r.Origin}
			v.depends(r.SHA256 != "", "the file's digest")
			return v.closedTool(r.Tool)
		}
	}
	v := Verdict{Decision: DecisionAllow, Rule: "exec.mode " + string(e.Mode), Origin: baseline}
	if e.From != nil {
		v.Origin = *e.From
	}
	v.depends(e.Mode != ExecAny, "whether the image brought "+what.Path)
	for _, l := range e.Allow {
		i := slices.IndexFunc(l.Programs, func(r ExecRule) bool { return r.Match(path, argv) })
		if i < 0 {
			return Verdict{Decision: DecisionDeny, Rule: "exec.allow", Origin: l.Origin, Why: what.Path + " is not in the list"}
		}
		v.depends(l.Programs[i].SHA256 != "", "the file's digest")
	}
	for _, r := range e.Ask {
		if r.Match(path, argv) {
			v.Decision, v.Rule, v.Origin = DecisionAsk, "exec.ask "+r.String(), r.Origin
			break
		}
	}
	return v
}
