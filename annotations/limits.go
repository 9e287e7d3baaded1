package annotations

import (
	"math"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// limitsCPUs reads io.nanoclaw.limits.cpus: a number such as 2 or 0.5.
func limitsCPUs(p *Policy, value string) error {
	whole, fraction, _ := strings.Cut(value, ".")
	if !digits(whole) || len(whole) > 5 || strings.Contains(value, ".") && !digits(fraction) || len(fraction) > 3 {
		return badValue(KeyLimitsCPUs, value, "it is not a number of CPUs", "write a number such as 2 or 0.5, with at most three decimals")
	}
	milli, err := strconv.ParseInt(whole+(fraction + "000")[:3], 10, 64)
	if err != nil || milli < 10 {
		return badValue(KeyLimitsCPUs, value, "it is less than 0.01", "write a larger number")
	}
	p.Limits.CPUs = &Limit{Value: milli, Layer: LayerAnnotation}
	return nil
}

// minMemory is Docker's own least memory limit, in bytes.
const minMemory = 6 << 20

// limitsMemory reads io.nanoclaw.limits.memory: Docker's notation, 512m or 2g.
func limitsMemory(p *Policy, value string) error {
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
		return badValue(KeyLimitsMemory, value, "it is not a size", "write a whole number of bytes, or with k, m or g, such as 512m")
	}
	if n*unit < minMemory {
		return badValue(KeyLimitsMemory, value, "it is less than 6m", "write a larger size")
	}
	p.Limits.Memory = &Limit{Value: n * unit, Layer: LayerAnnotation}
	return nil
}

// limitsPids reads io.nanoclaw.limits.pids: a number of tasks.
func limitsPids(p *Policy, value string) error {
	n, err := strconv.ParseInt(value, 10, 32)
	if err != nil || !digits(value) || n < 1 {
		return badValue(KeyLimitsPids, value, "it is not a number of processes", "write a whole number, at least 1")
	}
	p.Limits.Pids = &Limit{Value: n, Layer: LayerAnnotation}
	return nil
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
