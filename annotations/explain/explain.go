// Package explain says what a container would be allowed before it is started:
// every rule of its policy with the layer and the place that it came from, what
// would be refused, and what this version cannot enforce.
//
// It starts nothing and changes nothing. What a mount's source is on the host it
// is told by its caller. It does not see what only a running container shows:
// bind mounts of the host below other names, which the runtime looks at.
package explain

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/nanoclaw/nanoclaw/annotations"
)

// Explanation is what would become of a container.
type Explanation struct {
	// Container is the id of a container that runs.
	Container string `json:"container,omitempty"`
	Agent     string `json:"agent,omitempty"`
	Mode      string `json:"mode,omitempty"`
	Digest    string `json:"digest,omitempty"`
	// Refused are the errors that docker run would print one of. Empty: the
	// container would start.
	Refused []string `json:"refused"`
	// Rules are all rules of the policy.
	Rules []Rule `json:"rules"`
	// Mounts are the bind mounts, as they would be.
	Mounts []Mount `json:"mounts"`
	// Command is the decision about the container's own command, if it names
	// an absolute path.
	Command *annotations.Verdict `json:"command,omitempty"`
	Notes   []string             `json:"notes"`
}

// Rule is one rule and where it came from.
type Rule struct {
	Rule  string `json:"rule"`
	Value string `json:"value"`
	Layer string `json:"layer"`
	Where string `json:"where,omitempty"`
}

// Mount is a bind mount and its verdict.
type Mount struct {
	Source      string `json:"source"`
	Resolved    string `json:"resolved,omitempty"`
	Destination string `json:"destination"`
	// Access is ro, rw, or refused.
	Access string `json:"access"`
	Why    string `json:"why,omitempty"`
}

// Resolver finds what a mount's source is on the host.
type Resolver func(source string, p *annotations.Policy) (annotations.Source, error)

// Input is what an explanation is made from.
type Input struct {
	Request *Request
	// Host is the policy file; nil: there is none.
	Host *annotations.File
	// Private are what [annotations.Input] has under this name.
	Private []string
	// Enforced is what the host's runtime enforces.
	Enforced annotations.Enforced
	Resolve  Resolver
	// Available tells whether a secret's value can be read: the error is an
	// [annotations.Refusal] where it cannot, any other where nobody knows. It may be
	// nil, and then it is not looked at.
	Available func(*annotations.Policy, annotations.Secret) error
}

// New explains a request.
func New(in Input) *Explanation {
	x := &Explanation{Refused: []string{}, Rules: []Rule{}, Mounts: []Mount{}, Notes: append([]string{}, in.Request.Notes...)}
	if r := in.Request.Runtime; !strings.Contains(r, "nanoclaw") {
		x.Notes = append(x.Notes, "the command line does not say --runtime=nanoclaw: unless that is the engine's default, none of this applies")
	}
	const id = "not-yet-run"
	p, err := annotations.Compile(annotations.Input{
		ID: id, Annotations: in.Request.Annotations, Spec: in.Request.spec, Host: in.Host, Private: in.Private, Enforced: annotations.Everything,
	})
	if err != nil {
		x.Refused = append(x.Refused, err.Error())
		return x
	}
	x.Agent, x.Mode, x.Digest = p.Agent, string(p.Mode), p.Digest()
	x.Rules = append(rules(p), flagRules(in.Request, p)...)
	for _, m := range in.Request.Mounts {
		x.mount(in.Resolve, p, m)
	}
	x.secrets(in.Available, p)
	for _, n := range p.Needs() {
		if !in.Enforced.Has(n.Capability) {
			x.Refused = append(x.Refused, fmt.Sprintf("the rule %q of the %s needs %s, which this version of nanoclaw does not enforce", n.Rule, n.Describe(), n.Capability))
		}
	}
	if c := in.Request.Command; len(c) > 0 && strings.HasPrefix(c[0], "/") {
		v := p.Exec.Decide(c[0], c[1:])
		x.Command = &v
		if now := p.Held().Exec.Decide(c[0], c[1:]); now.Decision != v.Decision {
			x.Notes = append(x.Notes, fmt.Sprintf("in the mode audit the command is %s: what all rules say of it is only recorded", now.Decision))
		}
	}
	return x
}

// Running explains the policy of a container that runs.
func Running(p *annotations.Policy) *Explanation {
	return &Explanation{
		Agent: p.Agent, Mode: string(p.Mode), Digest: p.Digest(), Container: p.Container,
		Refused: []string{}, Rules: rules(p), Mounts: []Mount{}, Notes: []string{},
	}
}

func (x *Explanation) secrets(available func(*annotations.Policy, annotations.Secret) error, p *annotations.Policy) {
	if available == nil {
		return
	}
	for _, s := range p.Secrets {
		var refusal *annotations.Refusal
		switch err := available(p, s); {
		case errors.As(err, &refusal):
			x.Refused = append(x.Refused, err.Error())
		case err != nil:
			x.Notes = append(x.Notes, "the secret "+s.Env+" could not be looked at: "+err.Error())
		}
	}
}

func (x *Explanation) mount(resolve Resolver, p *annotations.Policy, m annotations.Mount) {
	shown := Mount{Source: m.Source.Asked, Destination: m.Destination, Access: "rw"}
	source, err := resolve(m.Source.Asked, p)
	if err != nil {
		shown.Access, shown.Why = "unknown", err.Error()
		x.Mounts = append(x.Mounts, shown)
		x.Notes = append(x.Notes, "the mount of "+m.Source.Asked+" could not be judged: "+err.Error())
		return
	}
	shown.Resolved = source.Path
	m.Source = source
	made, err := p.Admit(m)
	switch {
	case err != nil:
		shown.Access, shown.Why = "refused", why(err)
		x.Refused = append(x.Refused, err.Error())
	case made.ReadOnly:
		shown.Access, shown.Why = "ro", "forced by mounts.readonly"
	case m.ReadOnly:
		shown.Access = "ro"
	}
	if made.Would != nil {
		shown.Why = "recorded as would: deny: " + why(made.Would)
	}
	x.Mounts = append(x.Mounts, shown)
}

// why is what a refusal says of its reason.
func why(err error) string {
	var refusal *annotations.Refusal
	if errors.As(err, &refusal) {
		return refusal.Why
	}
	return err.Error()
}

// OK reports whether the container would start.
func (x *Explanation) OK() bool { return len(x.Refused) == 0 }

// WriteJSON writes the explanation for a program.
func (x *Explanation) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(x)
}

// Write writes the explanation for a person.
func (x *Explanation) Write(w io.Writer) error {
	var b strings.Builder
	if x.Digest != "" {
		agent := x.Agent
		if agent == "" {
			agent = "(none: the baseline)"
		}
		fmt.Fprintf(&b, "agent   %s\nmode    %s\npolicy  %s\n\n", agent, x.Mode, x.Digest)
		rows := [][]string{{"RULE", "VALUE", "LAYER", "WHERE"}}
		for _, r := range x.Rules {
			rows = append(rows, []string{r.Rule, r.Value, r.Layer, r.Where})
		}
		columns(&b, rows)
	}
	if len(x.Mounts) > 0 {
		b.WriteString("\n")
		rows := [][]string{{"MOUNT", "AT", "ACCESS", ""}}
		for _, m := range x.Mounts {
			source := m.Source
			if m.Resolved != "" && m.Resolved != m.Source {
				source += " (" + m.Resolved + ")"
			}
			rows = append(rows, []string{source, m.Destination, m.Access, m.Why})
		}
		columns(&b, rows)
	}
	if v := x.Command; v != nil {
		fmt.Fprintf(&b, "\ncommand: %s by the rule %q of the %s\n", v.Decision, v.Rule, v.Describe())
		if v.Depends != "" {
			fmt.Fprintf(&b, "         depending on %s\n", v.Depends)
		}
	}
	b.WriteString("\n")
	for _, n := range x.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	for _, r := range x.Refused {
		fmt.Fprintf(&b, "refused: %s\n", r)
	}
	switch {
	case x.Container != "":
		fmt.Fprintf(&b, "This is the policy of the container %s, which runs.\n", x.Container)
	case x.OK():
		b.WriteString("The container would start.\n")
	default:
		b.WriteString("The container would not start.\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// columns writes rows whose columns are aligned; the last is left as it is.
func columns(b *strings.Builder, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, s := range row {
			// One long value must not push all others to the right.
			if len(s) <= 60 {
				widths[i] = max(widths[i], len(s))
			}
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, s := range row {
			fmt.Fprintf(&line, "%-*s  ", widths[i], s)
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}
