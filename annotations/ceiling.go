package annotations

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// excess is something that asks for more than the ceiling.
type excess struct {
	// rule is the ceiling's, limit where it is written.
	rule  string
	limit Origin
	// origin is where it was asked for.
	origin        Origin
	what, instead string
}

func (x excess) line(otherwise int) int { return lineOf(x.origin, otherwise) }

// exceeds returns what in a layer's rules is wider than the ceiling: it is
// refused, never trimmed, so that nobody believes to have what they have not.
// For an agent, what its tools need is looked at as well.
func (f *File) exceeds(r rules, agent *Agent) []excess {
	if f == nil {
		return nil
	}
	c := &f.ceiling.rules
	var all []excess
	add := func(rule string, limit, origin Origin, what, instead string) {
		all = append(all, excess{"ceiling." + rule, limit, origin, what, instead})
	}
	if wider(execModes, r.exec.Mode, c.exec.Mode) {
		add("exec.mode", *c.exec.From, *r.exec.From, "exec.mode "+string(r.exec.Mode)+" is wider than the ceiling's "+string(c.exec.Mode), "write "+string(c.exec.Mode)+", or remove it")
	}
	if wider(networkModes, r.network.Mode, c.network.Mode) {
		add("network.mode", *c.network.From, *r.network.From, "network "+string(r.network.Mode)+" is wider than the ceiling's "+string(c.network.Mode), "write "+string(c.network.Mode)+", or remove it")
	}
	if wider([]Mode{ModeAudit, ModeEnforce}, r.mode.Mode, c.mode.Mode) {
		add("mode", c.mode.Origin, r.mode.Origin, "the mode audit is wider than the ceiling's enforce", "write enforce, or remove it")
	}
	for _, l := range r.exec.Allow {
		for _, p := range l.Programs {
			all = append(all, c.exec.exceeds(p)...)
		}
	}
	for _, l := range r.network.Allow {
		for _, e := range l.Endpoints {
			all = append(all, c.network.exceeds(e)...)
		}
	}
	for _, names := range []struct {
		kind           string
		asked, ceiling []nameList
	}{{"tool", r.tools, c.tools}, {"secret", r.secrets, c.secrets}} {
		for _, l := range names.asked {
			for _, n := range l.Names {
				if lacking := lackedBy(names.ceiling, n.Name); lacking != nil {
					add(names.kind+"s", lacking.Origin, n.Origin, "the "+names.kind+" "+n.Name+" is not in the ceiling's list", "remove it")
				}
			}
		}
	}
	all = append(all, exceedsLimits(r.limits, c.limits)...)
	if agent != nil {
		for _, name := range agent.Granted {
			if t := f.Tool(name); t != nil {
				all = append(all, f.toolExceeds(t, agent)...)
			}
		}
	}
	return all
}

// toolExceeds returns what a granted tool needs and the ceiling does not give.
func (f *File) toolExceeds(t *Tool, agent *Agent) []excess {
	c := &f.ceiling.rules
	var all []excess
	for _, p := range t.Programs {
		all = append(all, c.exec.exceeds(p)...)
	}
	for _, e := range t.Endpoints {
		all = append(all, c.network.exceeds(e)...)
	}
	for _, m := range t.Mounts {
		for _, l := range c.sources {
			if !l.contains(m.Source, m.Write) {
				all = append(all, excess{rule: "ceiling.mounts.allow", limit: l.Origin,
					what: "the ceiling does not give the folder " + access(m.Source, m.Write), instead: "remove it from the tool, or add it to the ceiling"})
			}
		}
	}
	for i := range all {
		all[i].what = "it has the tool " + t.Name + ", and " + all[i].what
		all[i].origin = agent.tools[0].Origin
	}
	return all
}

func wider[T comparable](order []T, asked, ceiling T) bool {
	i := slices.Index(order, asked)
	return i >= 0 && i < slices.Index(order, ceiling)
}

func (e *Exec) exceeds(p ExecRule) []excess {
	for _, d := range e.Deny {
		if d.covers(p.Program) {
			return []excess{{"ceiling.exec.deny", d.Origin, p.Origin, "the ceiling denies " + d.String(), "remove " + p.String()}}
		}
	}
	for _, l := range e.Allow {
		if !slices.ContainsFunc(l.Programs, func(c ExecRule) bool { return c.covers(p.Program) }) {
			return []excess{{"ceiling.exec.allow", l.Origin, p.Origin, "the ceiling does not allow all of " + p.String(), "remove it, or write what the ceiling lists"}}
		}
	}
	return nil
}

func (n *Network) exceeds(e EndpointRule) []excess {
	if n.Mode == NetworkNone {
		return []excess{{"ceiling.network.mode", *n.From, e.Origin, "the ceiling allows no network, and so not " + e.Endpoint.String(), "remove it"}}
	}
	for _, d := range n.Deny {
		if d.Endpoint.Covers(e.Endpoint) {
			return []excess{{"ceiling.network.deny", d.Origin, e.Origin, "the ceiling denies " + d.Endpoint.String() + ", and so " + e.Endpoint.String(), "remove it"}}
		}
	}
	for _, l := range n.Allow {
		if !slices.ContainsFunc(l.Endpoints, func(c EndpointRule) bool { return c.Endpoint.Covers(e.Endpoint) }) {
			return []excess{{"ceiling.network.allow", l.Origin, e.Origin, "the ceiling does not allow all of " + e.Endpoint.String(), "remove it, or write what the ceiling lists"}}
		}
	}
	return nil
}

// limitNames are the limits with the flag that asks for each.
var limitNames = []struct{ name, flag string }{{"cpus", "--cpus"}, {"memory", "--memory"}, {"pids", "--pids-limit"}, {"lifetime", ""}}

func exceedsLimits(asked, ceiling Limits) []excess {
	var all []excess
	for _, l := range limitNames {
		a, c := *limitKinds[l.name].field(&asked), *limitKinds[l.name].field(&ceiling)
		if a != nil && c != nil && a.Value > c.Value {
			all = append(all, excess{"ceiling.limits." + l.name, c.Origin, a.Origin,
				fmt.Sprintf("limits.%s is %s, and the ceiling is %s", l.name, FormatLimit(l.name, a.Value), FormatLimit(l.name, c.Value)), "lower it"})
		}
	}
	return all
}

// CheckResources refuses limits that are asked for by flags and are above the
// ceiling. Both the spec of a new container and every later update must pass it.
// No limit at all is no request: such a container gets the policy's.
func (p *Policy) CheckResources(r *specs.LinuxResources) error {
	var asked Limits
	set := func(name string, value int64) {
		if value > 0 {
			*limitKinds[name].field(&asked) = &Limit{Value: value, Origin: Origin{Layer: LayerFlag}}
		}
	}
	if r.Memory != nil && r.Memory.Limit != nil {
		set("memory", *r.Memory.Limit)
	}
	if r.CPU != nil && r.CPU.Quota != nil {
		period := uint64(100000)
		if r.CPU.Period != nil && *r.CPU.Period > 0 && *r.CPU.Period <= 1000000 {
			period = *r.CPU.Period
		}
		if *r.CPU.Quota > 0 && *r.CPU.Quota < 1<<40 {
			set("cpus", (*r.CPU.Quota*1000+int64(period)-1)/int64(period))
		} else if *r.CPU.Quota > 0 {
			set("cpus", *r.CPU.Quota)
		}
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		set("pids", *r.Pids.Limit)
	}
	for _, l := range limitNames {
		a, c := *limitKinds[l.name].field(&asked), *limitKinds[l.name].field(&p.Ceiling)
		if a != nil && c != nil && a.Value > c.Value {
			return &Refusal{
				Rule: "ceiling.limits." + l.name, Origin: c.Origin,
				What:    l.flag + " " + FormatLimit(l.name, a.Value),
				Why:     "the ceiling of this host is " + FormatLimit(l.name, c.Value),
				Instead: "ask for no more than that, or leave the flag out",
			}
		}
	}
	return nil
}

// FormatLimit writes a limit, one of cpus, memory, pids and lifetime, as a
// person would.
func FormatLimit(name string, value int64) string {
	switch name {
	case "cpus":
		return strconv.FormatFloat(float64(value)/1000, 'f', -1, 64)
	case "memory":
		for i, unit := range []string{"t", "g", "m", "k"} {
			if size := int64(1) << (40 - 10*i); value%size == 0 && value > 0 {
				return strconv.FormatInt(value/size, 10) + unit
			}
		}
	case "lifetime":
		for _, unit := range []struct {
			seconds int64
			name    string
		}{{3600, "h"}, {60, "m"}} {
			if value%unit.seconds == 0 && value > 0 {
				return strconv.FormatInt(value/unit.seconds, 10) + unit.name
			}
		}
		return strconv.FormatInt(value, 10) + "s"
	}
	return strconv.FormatInt(value, 10)
}
