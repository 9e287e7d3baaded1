package sandbox

import (
	"math"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nanoclaw/nanoclaw/hypervisor"
)

func limited(memory, quota int64, period uint64) *specs.Spec {
	r := &specs.LinuxResources{}
	if memory != 0 {
		r.Memory = &specs.LinuxMemory{Limit: &memory}
	}
	if quota != 0 {
		r.CPU = &specs.LinuxCPU{Quota: &quota}
		if period != 0 {
			r.CPU.Period = &period
		}
	}
	return &specs.Spec{Linux: &specs.Linux{Resources: r}}
}

func TestMemory(t *testing.T) {
	const mib = 1 << 20
	for name, tt := range map[string]struct {
		spec *specs.Spec
		want int64
	}{
		"no limits at all":   {&specs.Spec{}, 512 * mib},
		"no resources":       {&specs.Spec{Linux: &specs.Linux{}}, 512 * mib},
		"no limit":           {limited(0, 0, 0), 512 * mib},
		"unlimited":          {limited(-1, 0, 0), 512 * mib},
		"a limit":            {limited(256*mib, 0, 0), 256*mib + guestReserve},
		"an odd limit":       {limited(6*mib+1, 0, 0), 8*mib + guestReserve},
		"more than there is": {limited(1<<50, 0, 0), 64 << 30},
		"beyond all":         {limited(math.MaxInt64, 0, 0), 64 << 30},
	} {
		if got := memoryFor(tt.spec, 512*mib, 64<<30); got != tt.want || got%memoryStep != 0 {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
}

func TestCPUs(t *testing.T) {
	for name, tt := range map[string]struct {
		spec      *specs.Spec
		byDefault int
		isolates  bool
		want      int
	}{
		"the host's":         {&specs.Spec{}, 0, true, 4},
		"one when emulated":  {&specs.Spec{}, 0, false, 1},
		"the default":        {&specs.Spec{}, 3, false, 3},
		"too many":           {&specs.Spec{}, 1000, true, maxCPUs},
		"a quota":            {limited(0, 150_000, 100_000), 0, true, 2},
		"the usual period":   {limited(0, 300_000, 0), 0, false, 3},
		"less than one":      {limited(0, 10, 100_000), 0, true, 1},
		"above the host's":   {limited(0, 800_000, 100_000), 0, false, 4},
		"no quota":           {limited(0, -1, 100_000), 2, true, 2},
		"a quota beyond all": {limited(0, math.MaxInt64/2, 1), 0, true, 4},
	} {
		if got := cpusFor(tt.spec, tt.byDefault, tt.isolates, 4); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
}

// A quota above what the host has asks for no more CPUs than that.
func TestQuotaOnHost(t *testing.T) {
	for quota, want := range map[int64]int64{800_000: 400_000, 400_000: 400_000, 150_000: 150_000, -1: -1} {
		r := limited(0, quota, 100_000).Linux.Resources
		if got := onHost(r, 4); *got.CPU.Quota != want || *r.CPU.Quota != quota {
			t.Errorf("%d becomes %d, want %d", quota, *got.CPU.Quota, want)
		}
	}
	if r := (&specs.LinuxResources{}); onHost(r, 4) != r {
		t.Error("no quota becomes another")
	}
}

func TestResolvConf(t *testing.T) {
	spec := &specs.Spec{Mounts: []specs.Mount{{Destination: "/etc/hosts", Source: "/h"}, {Destination: "/etc/resolv.conf", Source: "/r"}}}
	if got := ResolvConf(spec); got != "/r" {
		t.Errorf("got %q", got)
	}
	if got := ResolvConf(&specs.Spec{}); got != "" {
		t.Errorf("got %q of an image's own", got)
	}
}

func TestGrown(t *testing.T) {
	const first = 512<<20 + guestReserve
	now := hypervisor.Size{CPUs: 2, Memory: first}
	most := hypervisor.Size{CPUs: 4, Memory: 4<<30 + 5<<20}
	limits := func(memory, quota int64) *specs.LinuxResources {
		period := uint64(100_000)
		return &specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: &memory}, CPU: &specs.LinuxCPU{Quota: &quota, Period: &period},
		}
	}
	const step = hypervisor.GrowthStep
	for name, c := range map[string]struct {
		r    *specs.LinuxResources
		want hypervisor.Size // {}: refused
	}{
		"nothing":               {&specs.LinuxResources{}, now},
		"what there is":         {limits(512<<20, 200_000), now},
		"no limits":             {limits(-1, -1), now},
		"less":                  {limits(1<<20, 1000), now},
		"a little more memory":  {limits(513<<20, 0), hypervisor.Size{CPUs: 2, Memory: first + step}},
		"a step":                {limits(512<<20+step, 0), hypervisor.Size{CPUs: 2, Memory: first + step}},
		"more than a step":      {limits(513<<20+step, 0), hypervisor.Size{CPUs: 2, Memory: first + 2*step}},
		"more CPUs":             {limits(0, 200_001), hypervisor.Size{CPUs: 3, Memory: first}},
		"all CPUs":              {limits(0, 400_000), hypervisor.Size{CPUs: 4, Memory: first}},
		"more CPUs than all":    {limits(0, 400_001), hypervisor.Size{}},
		"more memory than all":  {limits(4<<30, 0), hypervisor.Size{}},
		"memory beyond numbers": {limits(math.MaxInt64, 0), hypervisor.Size{}},
	} {
		got, err := grown(now, most, first, c.r)
		if refused := c.want == (hypervisor.Size{}); (err != nil) != refused || !refused && got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
	// What it has become counts, not what it was.
	larger := hypervisor.Size{CPUs: 4, Memory: first + 4*step}
	if got, err := grown(larger, most, first, limits(600<<20, 300_000)); err != nil || got != larger {
		t.Errorf("%+v, %v", got, err)
	}
}
