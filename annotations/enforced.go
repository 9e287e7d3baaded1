package annotations

import (
	"slices"
	"strings"
)

// Capability is something that a policy can ask for and that not every version
// of the runtime can enforce. What needs none of them is what this package's
// own methods do when they are called: mounts, their sources and destinations,
// read-only, and the limits on CPUs, memory and processes.
type Capability string

// The capabilities.
const (
	// CapExec is deciding which programs run.
	CapExec Capability = "exec"
	// CapReadonlyTools is keeping a tool and what it starts from writing.
	CapReadonlyTools Capability = "readonly-tools"
	// CapHide is covering paths below a mount.
	CapHide Capability = "mounts.hide"
	// CapNetwork is deciding what can be reached.
	CapNetwork Capability = "network"
	// CapNetworkReadonly is letting a tool read from an endpoint and not write
	// to it, which takes a look into what is sent.
	CapNetworkReadonly Capability = "network.readonly"
	// CapSecrets is using secrets for the container.
	CapSecrets Capability = "secrets"
	// CapLifetime is ending a container after a time.
	CapLifetime Capability = "limits.lifetime"
	// CapAudit is recording what would be denied without denying it.
	CapAudit Capability = "mode.audit"
)

// Enforced is what a runtime can enforce.
type Enforced []Capability

// Everything is for looking at policies, not for running containers.
var Everything = Enforced{CapExec, CapReadonlyTools, CapHide, CapNetwork, CapNetworkReadonly, CapSecrets, CapLifetime, CapAudit}

// Has reports whether c is among them.
func (e Enforced) Has(c Capability) bool { return slices.Contains(e, c) }

// Need is a rule that needs a [Capability].
type Need struct {
	Capability Capability `json:"capability"`
	Rule       string     `json:"rule"`
	Origin
}

// Needs returns what must be enforced for the policy to be one, each capability
// once, with one of the rules that need it.
func (p *Policy) Needs() []Need {
	var all []Need
	need := func(on bool, c Capability, rule string, from Origin) {
		if on && !slices.ContainsFunc(all, func(n Need) bool { return n.Capability == c }) {
			all = append(all, Need{c, rule, from})
		}
	}
	need(p.Mode == ModeAudit, CapAudit, "mode audit", origin(p.From))
	need(p.Exec.Mode != ExecAny, CapExec, "exec.mode "+string(p.Exec.Mode), origin(p.Exec.From))
	for _, r := range p.Exec.Deny {
		need(true, CapExec, "exec.deny "+r.String(), r.Origin)
	}
	for _, r := range p.Exec.Ask {
		need(true, CapExec, "exec.ask "+r.String(), r.Origin)
	}
	need(p.Network.Mode != NetworkOpen, CapNetwork, "network "+string(p.Network.Mode), origin(p.Network.From))
	for _, r := range p.Network.Deny {
		need(true, CapNetwork, "network.deny "+r.Endpoint.String(), r.Origin)
	}
	for _, r := range p.Network.Ask {
		need(true, CapNetwork, "network.ask "+r.Endpoint.String(), r.Origin)
	}
	for _, r := range p.Network.Readonly {
		need(true, CapNetworkReadonly, "readonly_tools "+r.Endpoint.String(), r.Origin)
	}
	if p.Tools != nil {
		for _, t := range p.Tools.Open {
			if t.Readonly != nil {
				need(true, CapReadonlyTools, "readonly_tools "+t.Name, *t.Readonly)
			}
		}
	}
	for _, h := range p.Mounts.Hide {
		need(true, CapHide, "mounts.hide "+h.Pattern, h.Origin)
	}
	for _, s := range p.Secrets {
		need(true, CapSecrets, "secret "+s.Env, s.Origin)
	}
	if l := p.Limits.Lifetime; l != nil {
		need(true, CapLifetime, "limits.lifetime", l.Origin)
	}
	return all
}

func origin(o *Origin) Origin {
	if o == nil {
		return baseline
	}
	return *o
}

// check refuses a policy that needs what is not enforced: a restriction that
// nobody enforces must not be accepted.
func (e Enforced) check(p *Policy) error {
	for _, n := range p.Needs() {
		if e.Has(n.Capability) {
			continue
		}
		r := &Refusal{
			Rule: n.Rule, Origin: n.Origin,
			What:    "the rule " + quote(n.Rule),
			Why:     "it is not supported by this version of nanoclaw, and a restriction that is not enforced must not be accepted",
			Instead: "remove the rule, or use a version of nanoclaw that enforces " + string(n.Capability),
		}
		if n.Layer == LayerAnnotation {
			r.What = "the annotation " + quote(n.Where)
			r.Instead = "remove it, or use one of " + strings.Join(Supported(e...), ", ")
		} else if p.Agent != "" {
			r.What = "the agent " + quote(p.Agent) + ", which has the rule " + quote(n.Rule)
		}
		return r
	}
	return nil
}
