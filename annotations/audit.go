package annotations

import "slices"

// Held is what of the policy is in force: all of it in the mode enforce. In the
// mode audit it is what is never only recorded: the baseline, the ceiling, that
// irreversible tools are asked about, and every kind of rule that cannot be
// recorded without being carried out, such as limits.
func (p *Policy) Held() *Policy {
	if p.Firm != nil {
		return p.Firm
	}
	return p
}

// firm is what p's mode audit leaves in force. Where a rule came from is not
// asked of p, in which rules of several layers have become one: what the ceiling
// says is resolved again, without the layers after it.
func (p *Policy) firm(host *File, g grants) *Policy {
	ceiling := resolve(host, nil, host.ceiling.with(g))
	q := *p
	q.Mode, q.From, q.Firm = ModeEnforce, nil, nil
	q.Exec = ceiling.Exec
	q.Mounts.Sources, q.Mounts.Tools = ceiling.Mounts.Sources, ceiling.Mounts.Tools
	q.Mounts.Allow, q.Mounts.Readonly = ceiling.Mounts.Allow, ceiling.Mounts.Readonly
	q.Network = ceiling.Network
	// No agent can remove that, neither by its mode.
	for _, t := range host.Tools {
		if t.Risk == RiskIrreversible {
			q.Exec.Ask = unite(q.Exec.Ask, t.Programs)
			q.Network.Ask = unite(q.Network.Ask, t.Endpoints)
		}
	}
	return &q
}

// sameContainer takes over from o what is of the container and the host, and not
// of any layer.
func (p *Policy) sameContainer(o *Policy) {
	p.Container, p.Peers, p.Privileged = o.Container, o.Peers, o.Privileged
	p.Mounts.Refuse, p.Mounts.Engine = o.Mounts.Refuse, o.Mounts.Engine
	p.Network.Namespace = o.Network.Namespace
}

// Beyond returns the rules of e that o has not.
func (e *Exec) Beyond(o *Exec) Exec {
	more := Exec{Mode: ExecAny, Allow: beyond(e.Allow, o.Allow), Deny: beyond(e.Deny, o.Deny), Ask: beyond(e.Ask, o.Ask), Readonly: beyond(e.Readonly, o.Readonly)}
	if o.Mode == ExecAny {
		more.Mode, more.From = e.Mode, e.From
	}
	return more
}

func beyond[T rule](a, b []T) []T {
	return slices.DeleteFunc(slices.Clone(a), func(x T) bool {
		return slices.ContainsFunc(b, func(y T) bool { return x.key() == y.key() })
	})
}

// Admission is how a mount that is let through is to be made.
type Admission struct {
	// ReadOnly is set where the policy forces it to be.
	ReadOnly bool
	// Would is a [Refusal] where only the mode lets it through, or lets it be
	// written.
	Would error
}

// Admit judges a mount as [Policy.CheckMount] does, as far as the mode has rules
// in force.
func (p *Policy) Admit(m Mount) (Admission, error) {
	held := p.Held()
	a := Admission{ReadOnly: held.ReadOnly(m.Destination)}
	err := held.CheckMount(m)
	if err != nil && p.forces(m) {
		// A rule that is only recorded makes of it what the ceiling gives.
		m.ReadOnly, a.ReadOnly = true, true
		if held.CheckMount(m) == nil {
			err = nil
		}
	}
	if err != nil || held == p {
		return a, err
	}
	a.Would = p.CheckMount(m)
	if a.Would == nil && !a.ReadOnly && p.forces(m) {
		a.Would = p.refuseWriting(m)
	}
	return a, nil
}

// forces reports whether the policy would make a mount read-only that is not.
func (p *Policy) forces(m Mount) bool { return !m.ReadOnly && p.ReadOnly(m.Destination) }

func (p *Policy) refuseWriting(m Mount) error {
	i := slices.IndexFunc(p.Mounts.Readonly, func(r Readonly) bool { return r.covers(m.Destination) })
	r := p.Mounts.Readonly[i]
	return &Refusal{
		Rule: "mounts.readonly " + r.Destination, Origin: r.Origin, What: describe(m),
		Why: "it can be written, and would be read-only", Instead: "mount it read-only",
	}
}
