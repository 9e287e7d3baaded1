package egress

import (
	"net/netip"
	"testing"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/shim/network"
)

// Whoever is to hear of denials hears of what is on record as one, with where the
// rule stands, and of nothing that passed.
func TestDenialsAreTold(t *testing.T) {
	var log records
	var told []Denial
	r := newReporter(log.post)
	r.told = func(d Denial) { told = append(told, d) }
	v := newJudge(only("db")).named("other", 80)
	r.connection("other", 80, v)
	r.name("other", v)
	r.name("other", v)
	r.datagram(network.Refused{Destination: netip.MustParseAddrPort("203.0.113.9:53"), Protocol: 17}, v)
	r.would(endpointOf("tcp", "other", 80), v)
	r.allowed(endpointOf("tcp", "db", 80))
	want := []Denial{{"other", 80, "tcp", v}, {"other", 0, "dns", v}, {"203.0.113.9", 53, "udp", v}}
	if len(told) != len(want) || len(log.list()) != len(want)+2 {
		t.Fatalf("told %+v, recorded %+v", told, log.list())
	}
	for i := range want {
		if told[i] != want[i] || told[i].Layer != annotations.LayerAgent {
			t.Errorf("told %+v, want %+v", told[i], want[i])
		}
	}
}
