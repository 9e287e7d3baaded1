package task

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nanoclaw/nanoclaw/annotations"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/shim/audit"
)

func TestNoRulesNoGate(t *testing.T) {
	g, err := execGate(&annotations.Policy{Exec: annotations.Exec{Mode: annotations.ExecAny}}, &specs.Spec{}, "/")
	if g != nil || err != nil {
		t.Errorf("%v, %v", g, err)
	}
}

func rule(path, tool string, layer annotations.Layer, argv ...string) annotations.ExecRule {
	return annotations.ExecRule{
		Program: annotations.Program{Path: path, Argv: argv}, Tool: tool,
		Origin: annotations.Origin{Layer: layer, Where: "policy.yaml:7"},
	}
}

func TestExecGate(t *testing.T) {
	p := &annotations.Policy{Mode: annotations.ModeAudit, Exec: annotations.Exec{
		Mode:     annotations.ExecAny,
		Allow:    []annotations.ExecList{{Programs: []annotations.ExecRule{rule("/bin/sh", "", annotations.LayerAgent)}, Origin: annotations.Origin{Layer: annotations.LayerAgent}}},
		Deny:     []annotations.ExecRule{rule("/bin/nc", "", annotations.LayerCeiling), rule("/bin/crm", "crm", annotations.LayerAgent)},
		Ask:      []annotations.ExecRule{rule("/bin/git", "", annotations.LayerAgent, "push")},
		Readonly: []annotations.ExecRule{rule("/bin/psql", "psql", annotations.LayerAgent)},
	}, Firm: &annotations.Policy{Exec: annotations.Exec{
		Mode: annotations.ExecAny, Deny: []annotations.ExecRule{rule("/bin/nc", "", annotations.LayerCeiling)},
	}}}
	g, err := execGate(p, &specs.Spec{}, "/")
	if err != nil {
		t.Fatal(err)
	}
	if g.GetImage() != nil || len(g.GetLists()) != 1 || !g.GetLists()[0].GetWould() || len(g.GetRules()) != 5 {
		t.Fatalf("%v", g)
	}
	for i, want := range []struct {
		action agent.ExecRule_Action
		path   string
		rule   string
		would  bool
	}{
		{agent.ExecRule_ACTION_DENY, "/bin/nc", "exec.deny /bin/nc", false},
		{agent.ExecRule_ACTION_LIST, "/bin/sh", "exec.allow /bin/sh", true},
		{agent.ExecRule_ACTION_DENY, "/bin/crm", "exec.deny /bin/crm", true},
		{agent.ExecRule_ACTION_ASK, "/bin/git", "exec.ask /bin/git push", true},
		{agent.ExecRule_ACTION_READONLY, "/bin/psql", "readonly_tools /bin/psql", true},
	} {
		r := g.GetRules()[i]
		if r.GetAction() != want.action || r.GetPath() != want.path || r.GetReason().GetRule() != want.rule || r.GetReason().GetWould() != want.would {
			t.Errorf("rule %d: %v", i, r)
		}
	}
	if why := g.GetRules()[2].GetReason().GetWhy(); why != "it belongs to the tool crm, which is not granted" {
		t.Errorf("why a tool is closed: %q", why)
	}
}

func TestListsOfBothKindsKeepTheirNumbers(t *testing.T) {
	list := func(path string, layer annotations.Layer) annotations.ExecList {
		return annotations.ExecList{Programs: []annotations.ExecRule{rule(path, "", layer)}, Origin: annotations.Origin{Layer: layer}}
	}
	held := list("/bin/*", annotations.LayerCeiling)
	p := &annotations.Policy{
		Exec: annotations.Exec{Mode: annotations.ExecAny, Allow: []annotations.ExecList{held, list("/bin/sh", annotations.LayerAgent)}},
		Firm: &annotations.Policy{Exec: annotations.Exec{Mode: annotations.ExecAny, Allow: []annotations.ExecList{held}}},
	}
	g, err := execGate(p, &specs.Spec{}, "/")
	if err != nil || len(g.GetLists()) != 2 || len(g.GetRules()) != 2 {
		t.Fatalf("%v, %v", g, err)
	}
	for i, path := range []string{"/bin/*", "/bin/sh"} {
		r, would := g.GetRules()[i], i == 1
		if r.GetPath() != path || int(r.GetList()) != i || g.GetLists()[i].GetWould() != would || r.GetReason().GetWould() != would {
			t.Errorf("list %d: %v, %v", i, g.GetLists()[i], r)
		}
	}
}

func TestImageModeNeedsAnImage(t *testing.T) {
	p := &annotations.Policy{Exec: annotations.Exec{Mode: annotations.ExecImage}}
	if _, err := execGate(p, &specs.Spec{}, t.TempDir()); err == nil {
		t.Error("a folder is taken for an image")
	}
}

func TestEngineInit(t *testing.T) {
	for source, want := range map[string]bool{"/usr/bin/docker-init": true, "/home/u/docker-init": false, "/usr/bin/sh": false} {
		spec := &specs.Spec{Mounts: []specs.Mount{{Destination: "/sbin/docker-init", Source: source}}}
		if got := len(engineInit(spec)) == 1; got != want {
			t.Errorf("%s is trusted: %v", source, got)
		}
	}
}

func TestDecided(t *testing.T) {
	for _, test := range []struct {
		kind, decision string
		would          bool
		event          audit.Event
		want, wanted   audit.Decision
	}{
		{"exec", "deny", false, audit.Exec, audit.Deny, ""},
		{"exec", "allow", false, audit.Exec, audit.Allow, ""},
		{"args", "kill", false, audit.Exec, audit.Deny, ""},
		{"exec", "ask", false, audit.Exec, audit.Deny, ""},
		{"exec", "deny", true, audit.Exec, audit.Allow, audit.Deny},
		{"readonly", "deny", false, audit.File, audit.Deny, ""},
		{"vsock", "deny", false, audit.Boundary, audit.Deny, ""},
		// The guest's word may be anything.
		{"", "", false, audit.Exec, audit.Deny, ""},
	} {
		e := decided(&agent.Decision{Kind: test.kind, Decision: test.decision, Would: test.would})
		if e.Event != test.event || e.Decision != test.want || e.Would != test.wanted {
			t.Errorf("%s %s: %s %q would %q", test.kind, test.decision, e.Event, e.Decision, e.Would)
		}
	}
}
