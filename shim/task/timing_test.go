package task

import (
	"math"
	"strings"
	"testing"
	"time"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/shim/sandbox"
)

func TestAContainerThatJoinsHasNoBoot(t *testing.T) {
	began := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	at := func(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }
	times := timing{
		shim: began, request: at(5000),
		sandbox: sandbox.Timing{Prepared: at(70), VMM: at(100), Agent: at(1100)},
		created: at(5300), start: at(5350), wired: at(5360), started: at(5500),
	}
	times.guestSaid(&agent.CreateResponse{BootedNs: 600e6, CalledNs: 200e6})
	fields := times.fields()
	sum := 0.0
	for key, value := range fields {
		if strings.HasSuffix(key, "_ms") {
			sum += value.(float64)
		}
	}
	if !times.joined() || sum != 500 || fields["began"] != at(5000).Format(time.RFC3339Nano) {
		t.Errorf("of a start of 500 ms in a VM that was there: %v", fields)
	}
}

func TestThePhasesOfAStartAddUp(t *testing.T) {
	began := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	at := func(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }
	for name, test := range map[string]struct {
		said          *agent.CreateResponse
		kernel, agent float64
	}{
		"a guest that says the truth": {&agent.CreateResponse{BootedNs: 600e6, CalledNs: 200e6}, 800, 200},
		"a guest that says nothing":   {&agent.CreateResponse{}, 1000, 0},
		"a guest that says too much":  {&agent.CreateResponse{BootedNs: math.MaxUint64, CalledNs: math.MaxUint64}, 0, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			times := timing{
				shim: began, request: at(30),
				sandbox: sandbox.Timing{Prepared: at(70), VMM: at(100), Agent: at(1100)},
				created: at(1400), start: at(1450), wired: at(1500), started: at(1700),
			}
			times.guestSaid(test.said)
			fields := times.fields()
			if fields["kernel_ms"] != test.kernel || fields["agent_ms"] != test.agent {
				t.Errorf("kernel %v, agent %v, want %v, %v", fields["kernel_ms"], fields["agent_ms"], test.kernel, test.agent)
			}
			sum := 0.0
			for key, value := range fields {
				if strings.HasSuffix(key, "_ms") && key != "guest_uptime_ms" {
					sum += value.(float64)
				}
			}
			if sum != 1700 {
				t.Errorf("the phases of a start of 1700 ms sum up to %v: %v", sum, fields)
			}
			if up := fields["guest_uptime_ms"].(float64); up > 1000 {
				t.Errorf("an uptime of %v ms after a boot of 1000", up)
			}
		})
	}
}
