package annotations

import "slices"

// resolve turns rules that name tools into rules about what the tools consist
// of.
func resolve(host *File, agent *Agent, r rules) *Policy {
	p := &Policy{
		Version: 1, Mode: r.mode.Mode,
		Mounts: Mounts{Refuse: baselinePlaces(), Sources: r.sources, Allow: r.allow, Readonly: r.readonly, Hide: r.hide},
		Limits: r.limits, Exec: r.exec, Network: r.network,
	}
	p.refuseSecrets(host)
	if p.Mode == "" {
		p.Mode = ModeEnforce
	} else {
		p.From = &r.mode.Origin
	}
	if p.Exec.Mode == "" {
		p.Exec.Mode = ExecAny
	}
	if p.Network.Mode == "" {
		p.Network.Mode = NetworkOpen
	}
	if host != nil {
		p.Ceiling = host.ceiling.limits
	}
	if agent != nil {
		p.Agent = agent.Name
	}
	if len(r.tools) > 0 || len(r.readonlyTools) > 0 {
		p.closeTools(host, agent, r)
	}
	return p
}

// closeTools adds the rules that come of tools.
func (p *Policy) closeTools(host *File, agent *Agent, r rules) {
	p.Tools = &Tools{}
	if host == nil {
		return
	}
	var open, closed []*Tool
	for i := range host.Tools {
		t := &host.Tools[i]
		if lacking := lackedBy(r.tools, t.Name); lacking != nil {
			p.Tools.Closed = append(p.Tools.Closed, ToolRule{Name: t.Name, Risk: t.Risk, Origin: lacking.Origin})
			closed = append(closed, t)
			continue
		}
		p.Tools.Open = append(p.Tools.Open, ToolRule{Name: t.Name, Risk: t.Risk, Readonly: readonlyTool(r, t.Name), Origin: grantedBy(r, t)})
		open = append(open, t)
	}
	var exec Exec
	var network Network
	for i, t := range closed {
		from := p.Tools.Closed[i].Origin
		exec.Deny = append(exec.Deny, closedPrograms(t, open, from)...)
		network.Deny = append(network.Deny, closedEndpoints(t, open, from)...)
		for _, m := range t.Mounts {
			p.Mounts.Tools = append(p.Mounts.Tools, ToolMount{Source: m.Source, Tool: t.Name, Origin: from})
		}
	}
	for i, t := range open {
		rule := p.Tools.Open[i]
		if t.Risk == RiskIrreversible {
			exec.Ask = append(exec.Ask, t.Programs...)
			network.Ask = append(network.Ask, t.Endpoints...)
		}
		if rule.Readonly != nil {
			exec.Readonly = append(exec.Readonly, t.Programs...)
			network.Readonly = append(network.Readonly, t.Endpoints...)
		}
		for _, m := range t.Mounts {
			p.Mounts.Tools = append(p.Mounts.Tools, ToolMount{Source: m.Source, Tool: t.Name, Open: true, Write: m.Write && rule.Readonly == nil, Origin: m.Origin})
		}
		if agent != nil {
			p.Secrets = append(p.Secrets, openSecrets(t, r.secrets)...)
		}
	}
	exec.Mode, network.Mode = ExecAny, NetworkOpen
	p.Exec, p.Network = p.Exec.meet(exec), p.Network.meet(network)
}

// grantedBy is where an open tool was granted: the latest layer that lists it,
// or the catalog.
func grantedBy(r rules, t *Tool) Origin {
	from := t.Origin
	for _, l := range r.tools {
		for _, n := range l.Names {
			if n.Name == t.Name && n.compare(from) > 0 {
				from = n.Origin
			}
		}
	}
	return from
}

func readonlyTool(r rules, name string) *Origin {
	for _, n := range r.readonlyTools {
		if n.Name == "*" || n.Name == name {
			return &n.Origin
		}
	}
	return nil
}

// closedPrograms are a closed tool's programs, without those that an open tool
// has in just the same way: what is granted by one name is granted.
func closedPrograms(t *Tool, open []*Tool, from Origin) []ExecRule {
	var deny []ExecRule
	for _, program := range t.Programs {
		shared := slices.ContainsFunc(open, func(o *Tool) bool {
			return slices.ContainsFunc(o.Programs, func(r ExecRule) bool { return r.same(program.Program) })
		})
		if !shared {
			program.Origin = from
			deny = append(deny, program)
		}
	}
	return deny
}

func closedEndpoints(t *Tool, open []*Tool, from Origin) []EndpointRule {
	var deny []EndpointRule
	for _, e := range t.Endpoints {
		shared := slices.ContainsFunc(open, func(o *Tool) bool {
			return slices.ContainsFunc(o.Endpoints, func(r EndpointRule) bool { return r.Endpoint == e.Endpoint })
		})
		if !shared {
			e.Origin = from
			deny = append(deny, e)
		}
	}
	return deny
}
