package execgate

import (
	"fmt"
	"path"
	"strings"
	"time"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"golang.org/x/sys/unix"
)

// Refusal is a program that the policy does not let a container's own process
// be. It is found before the process is made, for its message: what stops the
// program is the kernel.
type Refusal struct {
	// Path is the program.
	Path string
	// Hidden: there is to be none.
	Hidden bool
	Reason
}

// Error says why, in one line. It holds the system's words for a program that
// may not be run, by which Docker chooses the exit code 126.
func (r *Refusal) Error() string {
	words := "permission denied"
	if r.Hidden {
		words = "no such file or directory"
	}
	return fmt.Sprintf("exec: %q: %s: %s", r.Path, words, r.text())
}

// Refused reports whether d is one that the container is told of. That a hidden
// file is hidden is not told.
func Refused(d *agent.Decision) bool {
	switch d.GetDecision() {
	case decisions[gateDecisionDECISION_ALLOW], decisions[gateDecisionDECISION_HIDE]:
		return false
	}
	return !d.GetWould()
}

// NotRun reports whether what was refused is a program, of which a person is told.
func NotRun(d *agent.Decision) bool {
	return Refused(d) && (d.GetKind() == kinds[gateKindKIND_EXEC] || d.GetKind() == kinds[gateKindKIND_ARGS])
}

// Line tells a person why a program did not run. What the container chose of it
// is quoted, since it may go to a terminal.
func (r Reason) Line(program string) string {
	return fmt.Sprintf("nanoclaw: %q was not run: %s", program, r.text())
}

// text tells which rule it was, where it stands and what to do.
func (r Reason) text() string {
	s := "rule " + r.Rule
	if r.Origin != "" {
		s += " (" + r.Origin + ")"
	}
	if r.Why != "" {
		s += ": " + r.Why
	}
	if r.Instead != "" {
		s += "; " + r.Instead
	}
	return s
}

// Check returns a *Refusal if the gate would not run args[0] for a process with
// this environment and folder, as far as that can be known before: neither
// scripts' interpreters nor the image are looked at.
func (g *Gate) Check(args, env []string, dir string) error {
	name, decision, why := g.judge(args, env, dir)
	if why == nil {
		return nil
	}
	// The kernel will not be asked, so this is what goes on record. It is of no
	// process: there will be none.
	d := &agent.Decision{
		Kind: kinds[gateKindKIND_EXEC], Decision: decisions[decision],
		Rule: why.Rule, Origin: why.Origin, Path: text([]byte(name)), Time: time.Now().UnixNano(),
	}
	g.records.put(d)
	if g.seen != nil {
		g.seen(d, *why)
	}
	return &Refusal{Path: name, Hidden: decision == gateDecisionDECISION_HIDE, Reason: *why}
}

func (g *Gate) judge(args, env []string, dir string) (string, gateDecision, *Reason) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(args) == 0 || !g.armed {
		return "", 0, nil
	}
	c := container{root: int(g.root.Fd())}
	name, one := c.program(g.files, args[0], env, dir)
	if name == "" {
		return "", 0, nil
	}
	decision, why := g.policy.refuses(one, args[1:])
	return name, decision, why
}

// program returns the path of what a process named so would run, and the rules
// about that; "" if there is no such file.
func (c container) program(known files, name string, env []string, dir string) (string, *file) {
	candidates := []string{path.Join(dir, name)}
	if path.IsAbs(name) {
		candidates = []string{name}
	}
	if !strings.Contains(name, "/") {
		candidates = nil
		for _, e := range env {
			if list, ok := strings.CutPrefix(e, "PATH="); ok {
				candidates = nil
				for _, folder := range strings.Split(list, ":") {
					candidates = append(candidates, path.Join(folder, name))
				}
			}
		}
	}
	for _, candidate := range candidates {
		if f, err := c.open(candidate, unix.O_PATH); err == nil {
			var st unix.Stat_t
			err := unix.Fstat(int(f.Fd()), &st)
			_ = f.Close()
			if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
				return candidate, known[key{dev: st.Dev, ino: st.Ino}]
			}
		}
	}
	return "", nil
}

// refuses returns why a run of f with these arguments is not to be.
func (p *Policy) refuses(f *file, argv []string) (gateDecision, *Reason) {
	lists := make([]bool, len(p.Lists))
	if f != nil {
		for i := range lists {
			lists[i] = f.trusted
		}
		var strictest *Rule
		for _, n := range f.rules {
			r := &p.Rules[n]
			if !contains(argv, r.Argv) {
				continue
			}
			switch {
			case r.Action == InList:
				lists[r.List] = true
			case r.Action != ReadOnly && !r.Would && (strictest == nil || r.Action < strictest.Action):
				strictest = r
			}
		}
		if strictest != nil {
			return refusing[strictest.Action], &strictest.Reason
		}
	}
	for i, in := range lists {
		if !in && !p.Lists[i].Would {
			return gateDecisionDECISION_DENY, &p.Lists[i]
		}
	}
	return gateDecisionDECISION_ALLOW, nil
}

// refusing are the decisions of rules that refuse a program.
var refusing = map[Action]gateDecision{Hide: gateDecisionDECISION_HIDE, Deny: gateDecisionDECISION_DENY, Ask: gateDecisionDECISION_ASK}

// contains reports whether argv has the words in this order.
func contains(argv, words []string) bool {
	for _, a := range argv {
		if len(words) > 0 && a == words[0] {
			words = words[1:]
		}
	}
	return len(words) == 0
}
