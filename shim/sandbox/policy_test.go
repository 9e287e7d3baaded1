package sandbox

import (
	"path/filepath"
	"testing"

	"github.com/nanoclaw/nanoclaw/annotations"
)

func TestPolicyOfARunningContainer(t *testing.T) {
	base := filepath.Join(t.TempDir(), "run")
	d := newRundir(base, "moby", "c1")
	if err := d.make(Info{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	p, err := annotations.ForAgent(nil, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"c1", "c2", "d3"} {
		if err := d.notePolicy(id, p); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Policy(base, "d")
	if err != nil || got.Digest() != p.Digest() {
		t.Errorf("%+v, %v", got, err)
	}
	for _, id := range []string{"c", "x", "", "../c1", "*"} {
		if got, err := Policy(base, id); err == nil {
			t.Errorf("%q has the policy %+v", id, got)
		}
	}
	if err := d.forgetPolicy("d3"); err != nil {
		t.Fatal(err)
	}
	if err := d.forgetPolicy("d3"); err != nil {
		t.Errorf("forgotten already: %v", err)
	}
	if _, err := Policy(base, "d"); err == nil {
		t.Error("it was not forgotten")
	}
}
