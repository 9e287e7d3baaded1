package explain

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nanoclaw/nanoclaw/annotations"
)

// table collects rules.
type table []Rule

func (t *table) add(rule, value string, from annotations.Origin) {
	*t = append(*t, Rule{Rule: rule, Value: value, Layer: string(from.Layer), Where: from.Where})
}

func from(o *annotations.Origin) annotations.Origin {
	if o == nil {
		return annotations.Origin{Layer: annotations.LayerBaseline}
	}
	return *o
}

// rules lists all rules of a policy.
func rules(p *annotations.Policy) []Rule {
	var t table
	t.add("mode", string(p.Mode), from(p.From))
	t.tools(p)
	t.exec(&p.Exec)
	t.mounts(&p.Mounts)
	t.network(&p.Network)
	for _, s := range p.Secrets {
		hosts := make([]string, len(s.Hosts))
		for i, h := range s.Hosts {
			hosts[i] = h.String()
		}
		t.add("secret", s.Env+" at "+strings.Join(hosts, ", "), s.Origin)
	}
	t.limits("limits", p.Limits)
	t.limits("ceiling.limits", p.Ceiling)
	return t
}

func (t *table) tools(p *annotations.Policy) {
	if p.Tools == nil {
		return
	}
	for _, r := range p.Tools.Open {
		t.add("tool granted", r.Name+" ("+string(r.Risk)+")", r.Origin)
		if r.Readonly != nil {
			t.add("tool read-only", r.Name, *r.Readonly)
		}
	}
	for _, r := range p.Tools.Closed {
		t.add("tool closed", r.Name, r.Origin)
	}
}

func tool(value, name string) string {
	if name == "" {
		return value
	}
	return value + " (tool " + name + ")"
}

func (t *table) exec(e *annotations.Exec) {
	t.add("exec.mode", string(e.Mode), from(e.From))
	for _, l := range e.Allow {
		for _, r := range l.Programs {
			t.add("exec.allow", tool(r.String(), r.Tool), r.Origin)
		}
	}
	for _, rules := range []struct {
		name string
		list []annotations.ExecRule
	}{{"exec.deny", e.Deny}, {"exec.ask", e.Ask}, {"exec read-only", e.Readonly}} {
		for _, r := range rules.list {
			t.add(rules.name, tool(r.String(), r.Tool), r.Origin)
		}
	}
}

func (t *table) network(n *annotations.Network) {
	t.add("network", string(n.Mode), from(n.From))
	for _, l := range n.Allow {
		for _, r := range l.Endpoints {
			t.add("network.allow", tool(r.Endpoint.String(), r.Tool), r.Origin)
		}
	}
	for _, rules := range []struct {
		name string
		list []annotations.EndpointRule
	}{{"network.deny", n.Deny}, {"network.ask", n.Ask}, {"network read-only", n.Readonly}} {
		for _, r := range rules.list {
			t.add(rules.name, tool(r.Endpoint.String(), r.Tool), r.Origin)
		}
	}
}

func (t *table) mounts(m *annotations.Mounts) {
	for _, l := range m.Sources {
		for _, s := range l.Sources {
			t.add("mounts from", s.Source+access(s.Write), s.Origin)
		}
		if len(l.Sources) == 0 {
			t.add("mounts from", "none", l.Origin)
		}
	}
	for _, s := range m.Tools {
		value := "refused"
		if s.Open {
			value = strings.TrimPrefix(access(s.Write), ":")
		}
		t.add("mounts of a tool", tool(s.Source+" "+value, s.Tool), s.Origin)
	}
	for _, l := range m.Allow {
		for _, d := range l.Destinations {
			t.add("mounts.allow", d.Destination+access(d.Write), d.Origin)
		}
		if len(l.Destinations) == 0 {
			t.add("mounts.allow", "none", l.Origin)
		}
	}
	for _, r := range m.Readonly {
		t.add("mounts.readonly", r.Destination, r.Origin)
	}
	for _, h := range m.Hide {
		t.add("mounts.hide", h.Pattern, h.Origin)
	}
	t.places(m.Refuse)
}

// places groups what is refused by what it is.
func (t *table) places(all []annotations.Place) {
	for i := 0; i < len(all); {
		j := i
		var paths []string
		for ; j < len(all) && all[j].Kind == all[i].Kind && all[j].Origin == all[i].Origin; j++ {
			paths = append(paths, all[j].Path)
		}
		t.add("mounts.refuse", strings.Join(paths, ", "), all[i].Origin)
		i = j
	}
}

func access(write bool) string {
	if write {
		return ":rw"
	}
	return ":ro"
}

func (t *table) limits(prefix string, l annotations.Limits) {
	for _, one := range []struct {
		name  string
		limit *annotations.Limit
	}{{"cpus", l.CPUs}, {"memory", l.Memory}, {"pids", l.Pids}, {"lifetime", l.Lifetime}} {
		if one.limit != nil {
			t.add(prefix+"."+one.name, annotations.FormatLimit(one.name, one.limit.Value), one.limit.Origin)
		}
	}
}

// flagRules are what the command line itself limits, and limits further than
// the policy: of two limits the smaller counts.
func flagRules(r *Request, p *annotations.Policy) []Rule {
	var t table
	flag := func(name string) annotations.Origin {
		return annotations.Origin{Layer: annotations.LayerFlag, Where: name}
	}
	res := *r.spec.Linux.Resources
	if res.Memory != nil && smaller(*res.Memory.Limit, p.Limits.Memory) {
		t.add("limits.memory", annotations.FormatLimit("memory", *res.Memory.Limit), flag("--memory"))
	}
	if milli := milliCPUs(res.CPU); smaller(milli, p.Limits.CPUs) {
		t.add("limits.cpus", annotations.FormatLimit("cpus", milli), flag("--cpus"))
	}
	if res.Pids != nil && smaller(*res.Pids.Limit, p.Limits.Pids) {
		t.add("limits.pids", annotations.FormatLimit("pids", *res.Pids.Limit), flag("--pids-limit"))
	}
	for _, m := range r.Mounts {
		if m.ReadOnly {
			t.add("mounts.readonly", m.Destination, flag("-v "+m.Source.Asked+":"+m.Destination+":ro"))
		}
	}
	return t
}

func smaller(asked int64, limit *annotations.Limit) bool {
	return asked > 0 && (limit == nil || asked < limit.Value)
}

func milliCPUs(c *specs.LinuxCPU) int64 {
	if c == nil || c.Quota == nil || *c.Quota <= 0 || *c.Quota > 1<<40 {
		return 0
	}
	period := int64(100000)
	if c.Period != nil && *c.Period > 0 && *c.Period <= 1000000 {
		period = int64(*c.Period)
	}
	return *c.Quota * 1000 / period
}
