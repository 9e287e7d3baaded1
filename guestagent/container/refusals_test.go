package container

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func readRefusals(t *testing.T, name string) []refusalLine {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if len(raw) > maxRefusals {
		t.Fatalf("%d bytes", len(raw))
	}
	var all []refusalLine
	for line := range strings.Lines(string(raw)) {
		var l refusalLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, l)
	}
	return all
}

func inMemory() *specs.Spec {
	return &specs.Spec{Mounts: []specs.Mount{{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"}}}
}

func TestRefusalsAreLinesOfJSON(t *testing.T) {
	bundle := t.TempDir()
	spec := inMemory()
	r, err := shareRefusals(bundle, spec)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	odd := &agent.Decision{Kind: "args", Decision: "kill", Path: "/bin/a\n\"b", Argv: []string{"a", "push\n"}, Rule: "r", Origin: "o", Time: 1e9}
	r.add(Refusal{Decision: odd, Why: "w", Instead: "i", Line: "l"})
	r.add(Refusal{Decision: odd})
	readonly := &agent.Decision{Kind: "readonly", Decision: "deny", Path: "db"}
	for range 5 {
		r.add(Refusal{Decision: readonly})
	}
	got := readRefusals(t, filepath.Join(bundle, "refusals"))
	if len(got) != 3 {
		t.Fatalf("%+v", got)
	}
	first := got[0]
	if first.Seq != 1 || first.Time.Unix() != 1 || first.Path != odd.GetPath() || first.Argv[1] != "push\n" || first.Rule != "r" || first.Why != "w" || first.Instead != "i" {
		t.Errorf("%+v", first)
	}
	if got[1].Seq != 2 || got[2].Seq != 3 || got[2].Path != "db" {
		t.Errorf("%+v", got)
	}
	m := spec.Mounts[len(spec.Mounts)-1]
	if m.Destination != "/dev/nanoclaw/refusals" || strings.Join(m.Options, ",") != "bind,ro,nosuid,nodev,noexec" {
		t.Errorf("%+v", m)
	}
}

// What the host refused is among them, in the words that the host has for it.
func TestUnreached(t *testing.T) {
	one, two := newContainer(Config{}, "one"), newContainer(Config{}, "two")
	bundle := t.TempDir()
	var err error
	if one.refusals, err = shareRefusals(bundle, inMemory()); err != nil {
		t.Fatal(err)
	}
	defer one.refusals.close()
	// The second has no list.
	m := &Manager{containers: map[string]*Container{"one": one, "two": two}}
	why := &agent.ExecReason{Rule: "network.allow", Origin: "annotation, x", Why: "db is not in the list", Instead: "do without it"}
	db := &agent.Endpoint{Time: 1e9, Host: "db", Port: 80, Protocol: "tcp", Reason: why}
	m.Unreached([]*agent.Endpoint{db, db, {Host: "db", Port: 81, Protocol: "tcp", Reason: why}, {Host: "evil", Protocol: "dns"}})
	got := readRefusals(t, filepath.Join(bundle, "refusals"))
	if len(got) != 3 {
		t.Fatalf("%+v", got)
	}
	want := refusalLine{
		Seq: 1, Time: got[0].Time, Kind: "network", Decision: "deny", Host: "db", Port: 80, Protocol: "tcp",
		Rule: "network.allow", Origin: "annotation, x", Why: "db is not in the list", Instead: "do without it",
	}
	if !reflect.DeepEqual(got[0], want) || got[0].Time.Unix() != 1 || got[1].Port != 81 || got[2].Host != "evil" || got[2].Seq != 3 {
		t.Errorf("%+v", got)
	}
}

func TestRefusalsAreBounded(t *testing.T) {
	bundle := t.TempDir()
	r, err := shareRefusals(bundle, inMemory())
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	const n = 3000
	for i := range n {
		r.add(Refusal{Decision: &agent.Decision{Kind: "open", Decision: "deny", Path: strings.Repeat("x", i%200)}})
	}
	got := readRefusals(t, filepath.Join(bundle, "refusals"))
	for i := range got {
		if i > 0 && got[i].Seq != got[i-1].Seq+1 {
			t.Errorf("%d follows %d", got[i].Seq, got[i-1].Seq)
		}
	}
	if len(got) == 0 || len(got) >= n || got[len(got)-1].Seq != n {
		t.Errorf("%d lines", len(got))
	}
}

func TestRefusalsLeaveNothingInTheRootFileSystem(t *testing.T) {
	for _, spec := range []*specs.Spec{{}, {Mounts: []specs.Mount{{Destination: "/dev/", Type: "bind", Source: "/x"}}}} {
		before := len(spec.Mounts)
		r, err := shareRefusals(t.TempDir(), spec)
		if r != nil || err != nil || len(spec.Mounts) != before {
			t.Errorf("%v, %v, %+v", r, err, spec.Mounts)
		}
		r.add(Refusal{})
		r.close()
	}
}

func TestContainerReadsItsRefusals(t *testing.T) {
	g := setup(t)
	spec := testSpec("sh", "-c", "cat /dev/nanoclaw/refusals; { echo x >>/dev/nanoclaw/refusals; } 2>/dev/null && echo written")
	c := g.startedWith(t, &agent.CreateRequest{Spec: marshal(t, spec), Stdio: &agent.Stdio{Stdout: "f1"}, Exec: &agent.ExecGate{}})
	if got, err := g.host.read("f1"); err != nil || got != "" {
		t.Errorf("%q, %v", got, err)
	}
	if r, err := c.Wait(t.Context(), ""); err != nil || r.Status != 2 && r.Status != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}
