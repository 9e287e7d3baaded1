package check

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/annotations/pattern"
)

// interpreters run whatever they are given: allowing one allows any code.
var interpreters = []string{
	"sh", "bash", "dash", "ash", "zsh", "busybox", "env", "python", "python2", "python3", "perl", "ruby", "node", "deno", "bun",
	"php", "lua", "java", "awk", "gawk", "xargs", "find",
}

// lint warns about one agent.
func (r *Report) lint(f *annotations.File, a *annotations.Agent, p *annotations.Policy) {
	who := "agent " + a.Name + ": "
	if p.Mode == annotations.ModeAudit {
		r.warn(a.Line(), who+"the mode is audit: its rules about programs, mounts and the network are recorded, and nothing of them is blocked", "write mode: enforce when the records are as expected")
	}
	r.unused(f, a, p)
	for _, l := range p.Exec.Allow {
		if l.Layer != annotations.LayerAgent {
			continue
		}
		for _, program := range l.Programs {
			switch {
			case program.Tool != "":
			case pattern.IsWild(program.Path):
				r.warn(annotations.LineOf(program.Origin), who+"exec.allow has the wildcard "+program.Path, "list the programs")
			case slices.Contains(interpreters, path.Base(program.Path)) && len(program.Argv) == 0:
				r.warn(annotations.LineOf(program.Origin), who+"exec.allow has "+program.Path+", which runs any code that it is given", "what that code can reach is limited by mounts, network and secrets")
			}
		}
	}
	for _, l := range p.Network.Allow {
		for _, e := range l.Endpoints {
			if l.Layer == annotations.LayerAgent && e.Tool == "" && e.Endpoint.IsWild() {
				r.warn(annotations.LineOf(e.Origin), who+"network.allow has the wildcard "+e.Endpoint.String(), "list the hosts")
			}
		}
	}
	for _, l := range p.Mounts.Allow {
		for _, d := range l.Destinations {
			if d.Write && !p.ReadOnly(d.Destination) && l.Layer == annotations.LayerAgent && root(d.Destination) {
				r.warn(annotations.LineOf(d.Origin), who+"mounts.allow gives "+d.Destination+" for writing, which is all or much of the container", "give the folder that is worked in")
			}
		}
	}
}

// unused warns of tools that an agent has and cannot use.
func (r *Report) unused(f *annotations.File, a *annotations.Agent, p *annotations.Policy) {
	for _, name := range a.Granted {
		t := f.Tool(name)
		for _, program := range t.Programs {
			if pattern.IsWild(program.Path) {
				continue
			}
			if v := p.Exec.Decide(program.Path, program.Argv); v.Decision == annotations.DecisionDeny {
				r.warn(a.Line(), fmt.Sprintf("agent %s: it has the tool %s, whose program %s is denied by the rule %q of the %s", a.Name, name, program, v.Rule, v.Describe()), "remove the tool or the rule")
			}
		}
		for _, e := range t.Endpoints {
			if e.Endpoint.IsWild() {
				continue
			}
			if v := p.Network.Decide(e.Endpoint.Host, e.Endpoint.Port); v.Decision == annotations.DecisionDeny {
				r.warn(a.Line(), fmt.Sprintf("agent %s: it has the tool %s, whose endpoint %s is denied by the rule %q of the %s", a.Name, name, e.Endpoint, v.Rule, v.Describe()), "remove the tool or the rule")
			}
		}
	}
}

// lintFile warns about the file as a whole.
func (r *Report) lintFile(f *annotations.File) {
	for _, l := range f.CeilingSources() {
		for _, s := range l.Sources {
			if s.Write && root(s.Source) {
				r.warn(annotations.LineOf(s.Origin), "ceiling: mounts.allow gives all of "+s.Source+" for writing", "give the folders that are worked in")
			}
		}
	}
	for _, t := range f.Tools {
		r.lintTool(f, t)
	}
	r.sameTools(f)
}

func (r *Report) lintTool(f *annotations.File, t annotations.Tool) {
	line := annotations.LineOf(t.Origin)
	who := "tool " + t.Name + ": "
	if !slices.ContainsFunc(f.Agents, func(a annotations.Agent) bool { return slices.Contains(a.Granted, t.Name) }) {
		r.warn(line, who+"no agent has it", "grant it, or remove it; until then it is closed to every agent")
	}
	for _, program := range t.Programs {
		if pattern.IsWild(program.Path) {
			r.warn(annotations.LineOf(program.Origin), who+"its program has the wildcard "+program.Path, "list the programs")
		}
	}
	for _, e := range t.Endpoints {
		if e.Endpoint.IsWild() {
			r.warn(annotations.LineOf(e.Origin), who+"its endpoint has the wildcard "+e.Endpoint.String(), "list the hosts")
		}
	}
	for _, m := range t.Mounts {
		if m.Write && root(m.Source) {
			r.warn(annotations.LineOf(m.Origin), who+"its folder is all of "+m.Source+", for writing", "name the folder that is the tool's")
		}
	}
	for _, s := range t.Secrets {
		for _, h := range s.Hosts {
			if !slices.ContainsFunc(t.Endpoints, func(e annotations.EndpointRule) bool {
				return e.Endpoint.Covers(h) || h.Host == e.Endpoint.Host
			}) {
				r.warn(annotations.LineOf(s.Origin), who+"the secret "+s.Env+" may be sent to "+h.String()+", which is none of its endpoints", "add the endpoint, or remove the host")
			}
		}
	}
}

// sameTools warns where every agent has the same tools: then there is no
// profile, only a name.
func (r *Report) sameTools(f *annotations.File) {
	if len(f.Agents) < 2 || len(f.Agents[0].Granted) == 0 {
		return
	}
	set := func(a annotations.Agent) string { return strings.Join(slices.Sorted(slices.Values(a.Granted)), ", ") }
	for _, a := range f.Agents[1:] {
		if set(a) != set(f.Agents[0]) {
			return
		}
	}
	r.warn(f.Agents[0].Line(), fmt.Sprintf("all %d agents have the same tools (%s)", len(f.Agents), set(f.Agents[0])), "give each what its task needs")
}

// root reports whether a folder is the root or directly below it.
func root(folder string) bool { return path.Dir(folder) == "/" }
