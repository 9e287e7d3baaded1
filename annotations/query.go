package annotations

import (
	"errors"
	"strings"

	"github.com/nanoclaw/nanoclaw/annotations/document"
	"github.com/nanoclaw/nanoclaw/annotations/pattern"
)

// Query is an attempt that a policy can be asked about, written in words:
//
//	exec PATH [ARGUMENT…]
//	mount SOURCE[:DESTINATION][:ro|:rw]
//	network HOST[:PORT]   (443 if none is given)
//	tool NAME
//	secret NAME
type Query struct {
	verb string
	args []string

	mount Mount
	host  string
	port  uint16
}

// Test is a line of an agent's tests.
type Test struct {
	Want Decision
	Text string
	Query
	Line int
}

var verbs = []string{"exec", "mount", "network", "tool", "secret"}

// ParseQuery reads a query.
func ParseQuery(s string) (Query, error) {
	words := strings.Fields(s)
	if len(words) < 2 {
		return Query{}, errors.New("it has no verb and object")
	}
	q := Query{verb: words[0], args: words[1:]}
	if q.verb != "exec" && len(q.args) > 1 {
		return Query{}, errors.New("it has too many words")
	}
	switch q.verb {
	case "exec":
		if !cleanAbs(q.args[0]) || pattern.IsWild(q.args[0]) {
			return Query{}, errors.New("the program is not an absolute path without wildcards")
		}
	case "mount":
		return q, q.parseMount()
	case "network":
		return q, q.parseEndpoint()
	case "tool", "secret":
		if !name.MatchString(q.args[0]) {
			return Query{}, errors.New("it names none")
		}
	default:
		if near := document.Nearest(q.verb, verbs); near != "" {
			return Query{}, errors.New("there is no verb " + quote(q.verb) + "; did you mean " + near + "?")
		}
		return Query{}, errors.New("there is no verb " + quote(q.verb) + "; known are " + strings.Join(verbs, ", "))
	}
	return q, nil
}

// parseMount reads what -v takes. The source is taken for what it is called:
// what it resolves to is known on a host, and not here.
func (q *Query) parseMount() error {
	parts := strings.Split(q.args[0], ":")
	m := Mount{Source: Source{Kind: KindDir}}
	if last := parts[len(parts)-1]; len(parts) > 1 && (last == "ro" || last == "rw") {
		m.ReadOnly = last == "ro"
		parts = parts[:len(parts)-1]
	}
	m.Source.Asked = parts[0]
	m.Source.Path = parts[0]
	m.Destination = parts[len(parts)-1]
	if len(parts) > 2 || !cleanAbs(m.Source.Asked) || !cleanAbs(m.Destination) {
		return errors.New("it is not SOURCE[:DESTINATION][:ro] with absolute paths")
	}
	q.mount = m
	return nil
}

func (q *Query) parseEndpoint() error {
	e, err := pattern.ParseEndpoint(q.args[0])
	if err != nil {
		return err
	}
	if e.IsWild() {
		return errors.New("it is not one host")
	}
	if q.host, q.port = e.Host, e.Port; q.port == 0 {
		q.port = 443
	}
	return nil
}

func (q Query) String() string { return q.verb + " " + strings.Join(q.args, " ") }

// Decide answers a query.
func (p *Policy) Decide(q Query) Verdict {
	switch q.verb {
	case "exec":
		return p.Exec.Decide(q.args[0], q.args[1:])
	case "mount":
		return p.DecideMount(q.mount)
	case "network":
		return p.Network.Decide(q.host, q.port)
	case "tool":
		return p.decideTool(q.args[0])
	case "secret":
		return p.decideSecret(q.args[0])
	}
	return Verdict{Decision: DecisionDeny, Rule: "query", Origin: baseline, Why: "an empty question"}
}

// DecideMount is [Policy.CheckMount] as a verdict.
func (p *Policy) DecideMount(m Mount) Verdict {
	err := p.CheckMount(m)
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		return Verdict{Decision: DecisionDeny, Rule: refusal.Rule, Origin: refusal.Origin, Why: refusal.Why}
	case err != nil:
		return Verdict{Decision: DecisionDeny, Rule: "mounts", Origin: baseline, Why: err.Error()}
	}
	return Verdict{Decision: DecisionAllow, Rule: "mounts", Origin: baseline}
}

func (p *Policy) decideTool(name string) Verdict {
	if p.Tools == nil {
		return Verdict{Decision: DecisionAllow, Rule: "tools", Origin: baseline, Why: "there is no rule about tools without an agent"}
	}
	for _, t := range p.Tools.Open {
		if t.Name == name && t.Risk == RiskIrreversible {
			return Verdict{Decision: DecisionAsk, Rule: "tools." + name + " risk: irreversible", Origin: t.Origin}
		} else if t.Name == name {
			return Verdict{Decision: DecisionAllow, Rule: "tools", Origin: t.Origin}
		}
	}
	for _, t := range p.Tools.Closed {
		if t.Name == name {
			return Verdict{Decision: DecisionDeny, Rule: "tools", Origin: t.Origin, Why: "it is not granted"}
		}
	}
	return Verdict{Decision: DecisionDeny, Rule: "tools", Origin: baseline, Why: "there is no such tool"}
}

func (p *Policy) decideSecret(name string) Verdict {
	for _, s := range p.Secrets {
		if s.Env == name {
			return Verdict{Decision: DecisionAllow, Rule: "tools." + s.Tool, Origin: s.Origin}
		}
	}
	return Verdict{Decision: DecisionDeny, Rule: "secrets", Origin: baseline, Why: "no granted tool brings it"}
}
