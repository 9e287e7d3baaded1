package annotations

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nanoclaw/nanoclaw/annotations/document"
)

// limits reads {cpus, memory, pids, lifetime}.
func (r *reader) limits(n *document.Node, q *request) {
	f := fields{}
	for name := range limitKinds {
		f[name] = func(n *document.Node) { r.limit(n, name, q) }
	}
	r.object(n, "limits", f)
}

// limitKinds are the limits: how each is read, and which of [Limits] it is.
var limitKinds = map[string]struct {
	parse func(string) (value int64, why, instead string)
	field func(*Limits) **Limit
}{
	"cpus":     {parseCPUs, func(l *Limits) **Limit { return &l.CPUs }},
	"memory":   {parseMemory, func(l *Limits) **Limit { return &l.Memory }},
	"pids":     {parsePids, func(l *Limits) **Limit { return &l.Pids }},
	"lifetime": {parseLifetime, func(l *Limits) **Limit { return &l.Lifetime }},
}

// ParseLimit reads one of the limits cpus, memory, pids and lifetime as a person
// writes it. Where that is none, it says why, and what to write instead.
func ParseLimit(name, text string) (value int64, why, instead string) {
	kind, ok := limitKinds[name]
	if !ok {
		return 0, "there is no limit of this name", "write cpus, memory, pids or lifetime"
	}
	return kind.parse(text)
}

func (r *reader) limit(n *document.Node, name string, q *request) {
	text, ok := r.scalar(n, "limits."+name)
	if !ok {
		return
	}
	kind := limitKinds[name]
	value, why, instead := kind.parse(text)
	if why != "" {
		r.bad(n.Line, "limits."+name+" is "+quote(text)+": "+why, instead)
		return
	}
	*kind.field(&q.limits) = &Limit{Value: value, Origin: r.origin(n)}
}

// parseCPUs reads a number such as 2 or 0.5.
func parseCPUs(value string) (milli int64, why, instead string) {
	whole, fraction, _ := strings.Cut(value, ".")
	if !digits(whole) || len(whole) > 5 || strings.Contains(value, ".") && !digits(fraction) || len(fraction) > 3 {
		return 0, "it is not a number of CPUs", "write a number such as 2 or 0.5, with at most three decimals"
	}
	milli, err := strconv.ParseInt(whole+(fraction + "000")[:3], 10, 64)
	if err != nil || milli < 10 {
		return 0, "it is less than 0.01", "write a larger number"
	}
	return milli, "", ""
}

// minMemory is Docker's own least memory limit, in bytes.
const minMemory = 6 << 20

// parseMemory reads Docker's notation, 512m or 2g.
func parseMemory(value string) (bytes int64, why, instead string) {
	number, unit := strings.ToLower(value), int64(1)
	number = strings.TrimSuffix(strings.TrimSuffix(number, "b"), "i")
	for suffix, factor := range map[string]int64{"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40} {
		if n, ok := strings.CutSuffix(number, suffix); ok {
			number, unit = n, factor
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || !digits(number) || n > math.MaxInt64/unit {
		return 0, "it is not a size", "write a whole number of bytes, or with k, m or g, such as 512m"
	}
	if n*unit < minMemory {
		return 0, "it is less than 6m", "write a larger size"
	}
	return n * unit, "", ""
}

// parsePids reads a number of tasks.
func parsePids(value string) (tasks int64, why, instead string) {
	n, err := strconv.ParseInt(value, 10, 32)
	if err != nil || !digits(value) || n < 1 {
		return 0, "it is not a number of processes", "write a whole number, at least 1"
	}
	return n, "", ""
}

// maxLifetime is a year.
const maxLifetime = 366 * 24 * time.Hour

// parseLifetime reads whole seconds, as 90s, 30m or 8h.
func parseLifetime(value string) (seconds int64, why, instead string) {
	d, err := time.ParseDuration(value)
	if err != nil || d < time.Second || d > maxLifetime || d%time.Second != 0 {
		return 0, "it is not a duration of at least a second", "write whole seconds, minutes or hours, such as 90s, 30m or 8h"
	}
	return int64(d / time.Second), "", ""
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// NarrowResources lowers r to the policy's limits where it has none or a larger
// one. Both the spec of a new container and every later update must pass it.
func (p *Policy) NarrowResources(r *specs.LinuxResources) {
	if l := p.Limits.Memory; l != nil {
		if r.Memory == nil {
			r.Memory = &specs.LinuxMemory{}
		}
		lower(&r.Memory.Limit, l.Value)
		// Memory and swap together: the same, so that swap adds nothing.
		lower(&r.Memory.Swap, l.Value)
	}
	if l := p.Limits.CPUs; l != nil {
		if r.CPU == nil {
			r.CPU = &specs.LinuxCPU{}
		}
		period := uint64(100000)
		if r.CPU.Period != nil && *r.CPU.Period > 0 && *r.CPU.Period <= 1000000 {
			period = *r.CPU.Period
		}
		r.CPU.Period = &period
		lower(&r.CPU.Quota, max(1000, int64(period)*l.Value/1000))
	}
	if l := p.Limits.Pids; l != nil {
		if r.Pids == nil {
			r.Pids = &specs.LinuxPids{}
		}
		lower(&r.Pids.Limit, l.Value)
	}
}

// lower makes *n at most limit. Nil, zero and negative numbers mean no limit.
func lower(n **int64, limit int64) {
	if *n == nil || **n <= 0 || **n > limit {
		*n = &limit
	}
}
