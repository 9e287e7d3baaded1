package annotations

import (
	"testing"

	"github.com/nanoclaw/nanoclaw/annotations/pattern"
)

func rulesAbout(t *testing.T, hosts ...string) (all []EndpointRule) {
	t.Helper()
	for _, h := range hosts {
		e, err := pattern.ParseEndpoint(h)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, EndpointRule{Endpoint: e})
	}
	return canonical(all)
}

func TestKeptBy(t *testing.T) {
	open := Network{Mode: NetworkOpen}
	denies := Network{Mode: NetworkOpen, Deny: rulesAbout(t, "private")}
	lists := Network{Mode: NetworkFiltered, Allow: []EndpointList{{Endpoints: rulesAbout(t, "a", "b")}}}
	both := denies.meet(lists)
	other := Network{Mode: NetworkFiltered, Allow: []EndpointList{{Endpoints: rulesAbout(t, "c")}}}
	none := Network{Mode: NetworkNone}
	reads := Network{Mode: NetworkOpen, Readonly: rulesAbout(t, "a")}
	for _, c := range []struct {
		name   string
		of, by Network
		want   bool
	}{
		{"no rules by none", open, open, true},
		{"no rules by some", open, denies, true},
		{"some by none", denies, open, false},
		{"some by the same", denies, denies, true},
		{"some by more", denies, both, true},
		{"more by some", both, denies, false},
		{"a list by another", other, lists, false},
		{"a list by the same", lists, lists, true},
		{"nothing by a list", none, lists, false},
		{"reading by nothing of it", reads, open, false},
	} {
		if got := c.of.KeptBy(&c.by); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if open.Restricts() || !denies.Restricts() || !lists.Restricts() || !none.Restricts() || !reads.Restricts() {
		t.Error("which networks have rules is not told")
	}
}

func TestReadingAloneNeedsMoreThanTheNetwork(t *testing.T) {
	p := &Policy{Mode: ModeEnforce, Exec: Exec{Mode: ExecAny}, Network: Network{Mode: NetworkOpen, Readonly: rulesAbout(t, "a")}}
	needs := p.Needs()
	if len(needs) != 1 || needs[0].Capability != CapNetworkReadonly {
		t.Errorf("it needs %v", needs)
	}
	if err := (Enforced{CapNetwork}).check(p); err == nil {
		t.Error("a read-only endpoint is taken for enforced")
	}
}
