package sandbox

import (
	"errors"
	"slices"
	"testing"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/shim/audit"
)

func TestAdmits(t *testing.T) {
	open := &annotations.Network{Mode: annotations.NetworkOpen}
	none := &annotations.Network{Mode: annotations.NetworkNone}
	reads := &annotations.Network{Mode: annotations.NetworkOpen, Readonly: []annotations.EndpointRule{{}}}
	for _, c := range []struct {
		name       string
		has, own   *annotations.Network
		intercepts bool
		secrets    int
		want       bool
	}{
		{"no rules", open, open, false, 0, true},
		{"none of its own", none, open, false, 0, true},
		{"the same", none, none, false, 0, true},
		{"more than the network's", open, none, false, 0, false},
		{"a secret", open, open, false, 1, false},
		{"what only reads", reads, reads, false, 0, false},
		{"secrets of the first", open, open, true, 0, false},
	} {
		s := &Sandbox{rules: c.has, intercepts: c.intercepts}
		err := s.Admits("second", &annotations.Policy{Network: *c.own, Secrets: make([]annotations.Secret, c.secrets)})
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
