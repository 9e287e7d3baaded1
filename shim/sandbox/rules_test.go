package sandbox

import (
	"errors"
	"slices"
	"testing"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/shim/audit"
)

func TestAdmits(t *testing.T) {
	of := func(mode annotations.NetworkMode) *annotations.Policy {
		return &annotations.Policy{Network: annotations.Network{Mode: mode}}
	}
	open, none, audited := of(annotations.NetworkOpen), of(annotations.NetworkNone), of(annotations.NetworkNone)
	audited.Firm = open
	secret, reads := &annotations.Policy{Network: open.Network, Secrets: make([]annotations.Secret, 1)}, of(annotations.NetworkOpen)
	reads.Network.Readonly = make([]annotations.EndpointRule, 1)
	for _, c := range []struct {
		name     string
		has, own *annotations.Policy
		want     bool
	}{
		{"a secret", open, secret, false},
		{"what only reads", open, reads, false},
		{"secrets of the first", secret, open, false},
		{"no rules", open, open, true},
		{"none of its own", none, open, true},
		{"the same", none, none, true},
		{"more than the network's", open, none, false},
		{"both in the mode audit", audited, audited, true},
		{"one that the network only records", audited, none, false},
		{"one that is only recorded", none, audited, true},
		{"one that is not even recorded", open, audited, false},
	} {
		s := &Sandbox{policy: c.has, intercepts: c.has.Intercepts()}
		err := s.Admits("second", c.own)
		if (err == nil) != c.want {
			t.Errorf("%s: %v", c.name, err)
		}
		var refusal *annotations.Refusal
		if err != nil && !errors.As(err, &refusal) {
			t.Errorf("%s: %v is no refusal", c.name, err)
		}
	}
}

func TestRecordsAreTheLongestContainers(t *testing.T) {
	var got []string
	to := func(id string) recorder {
		return recorder{id, func(audit.Entry) { got = append(got, id) }}
	}
	s := &Sandbox{audits: []recorder{to("first"), to("second")}}
	s.record(audit.Entry{})
	s.audits = s.audits[1:]
	s.record(audit.Entry{})
	s.audits = nil
	s.record(audit.Entry{})
	if want := []string{"first", "second"}; !slices.Equal(got, want) {
		t.Errorf("records went to %v, want %v", got, want)
	}
}
