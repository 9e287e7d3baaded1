package annotations

import (
	"errors"
	"testing"
)

const auditFile = `
ceiling:
  mounts: {allow: [{source: /home, access: rw}, {source: /srv, access: ro}]}
  exec: {mode: image, deny: [/usr/bin/nc]}
  network: {deny: [169.254.169.254]}
  tools: [git, crm]
tools:
  git: {risk: irreversible, exec: [{path: /usr/bin/git, argv: [push]}], endpoints: [push.example.com]}
  crm: {exec: [/usr/bin/crm], endpoints: [crm.example.com], mounts: [{source: /home/crm, access: rw}]}
  never: {exec: [/usr/bin/never]}
agents:
  - name: a
    mode: audit
    tools: [git]
    readonly_tools: true
    exec: {allow: [/bin/sh], deny: [/usr/bin/curl, /usr/bin/nc]}
    mounts: {allow: ["/w:rw", "/ro:ro", "/data:rw"], readonly: [/w, /data]}
    network: {allow: [docs.example.com], deny: [169.254.169.254]}
    limits: {pids: 7}
`

func auditPolicy(t *testing.T, annotations map[string]string) *Policy {
	t.Helper()
	given := map[string]string{KeyAgent: "a"}
	for k, v := range annotations {
		given[k] = v
	}
	p, err := Compile(Input{ID: testID, Annotations: given, Spec: dockerSpec(), Host: parse(t, auditFile), Enforced: Everything, Private: []string{"/var/log/nanoclaw-x"}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestWhatAuditLeavesInForce(t *testing.T) {
	p := auditPolicy(t, map[string]string{KeyExecDeny: "/usr/bin/python3"})
	if p.Mode != ModeAudit || p.Held() == p {
		t.Fatalf("%+v", p)
	}
	for _, test := range []struct {
		query    string
		all, now Decision
	}{
		{"exec /bin/sh", DecisionAllow, DecisionAllow},
		{"exec /usr/bin/ls", DecisionDeny, DecisionAllow},
		{"exec /usr/bin/curl", DecisionDeny, DecisionAllow},
		{"exec /usr/bin/python3", DecisionDeny, DecisionAllow},
		// Of a tool that the agent was not granted.
		{"exec /usr/bin/crm", DecisionDeny, DecisionAllow},
		// Both the ceiling and the agent say it.
		{"exec /usr/bin/nc", DecisionDeny, DecisionDeny},
		// Neither the ceiling nor the agent has the tool.
		{"exec /usr/bin/never", DecisionDeny, DecisionDeny},
		// What cannot be undone.
		{"exec /usr/bin/git push", DecisionAsk, DecisionAsk},
		{"network push.example.com:443", DecisionAsk, DecisionAsk},
		{"network docs.example.com:443", DecisionAllow, DecisionAllow},
		{"network other.example.com:443", DecisionDeny, DecisionAllow},
		{"network crm.example.com:443", DecisionDeny, DecisionAllow},
		{"network 169.254.169.254:80", DecisionDeny, DecisionDeny},
	} {
		q, err := ParseQuery(test.query)
		if err != nil {
			t.Fatal(err)
		}
		if all, now := p.Decide(q), p.Held().Decide(q); all.Decision != test.all || now.Decision != test.now {
			t.Errorf("%s is %s by all rules and %s in force", test.query, all.Decision, now.Decision)
		}
	}
	held := p.Held()
	if held.Exec.Mode != ExecImage || len(held.Exec.Readonly) != 0 || len(p.Exec.Readonly) == 0 {
		t.Errorf("%+v", held.Exec)
	}
	if more := p.Exec.Beyond(&held.Exec); more.Mode != ExecAny || len(more.Allow) != 1 {
		t.Errorf("%+v", more)
	}
	if held.Limits.Pids == nil || held.Limits.Pids.Value != 7 || held.Container != testID {
		t.Error("limits and the container are the same in every mode")
	}
	if p.Digest() == auditPolicy(t, map[string]string{KeyExecDeny: "/usr/bin/python3", KeyMode: "enforce"}).Digest() {
		t.Error("both modes have one digest")
	}
}

func TestAuditIsTurnedBackByTheAnnotation(t *testing.T) {
	p := auditPolicy(t, map[string]string{KeyMode: "enforce"})
	if p.Mode != ModeEnforce || p.Held() != p || p.Firm != nil {
		t.Errorf("%+v", p)
	}
}

func TestMountsInAudit(t *testing.T) {
	p := auditPolicy(t, nil).OnHost(func(name string) string { return "/disk" + name }, func(string, string) []string { return nil })
	for _, test := range []struct {
		source, destination string
		readonly            bool
		// refused and would name the rule; forced: it is made read-only.
		refused, would string
		forced         bool
	}{
		{"/home/ada", "/data", true, "", "", false},
		{"/home/ada", "/elsewhere", false, "", "mounts.allow", false},
		{"/home/ada", "/ro", false, "", "mounts.allow", false},
		{"/home/ada", "/w", false, "", "mounts.readonly /w", false},
		// By the tool's folder: also under its name on this host.
		{"/disk/home/crm/x", "/w", true, "", "tools.crm mounts", false},
		// The ceiling gives it read-only, which the agent's rule makes of it.
		{"/srv/data", "/data", false, "", "", true},
		{"/srv/data", "/elsewhere", false, "ceiling.mounts.allow", "", false},
		{"/opt", "/w", true, "ceiling.mounts.allow", "", false},
		{"/home/ada/.ssh", "/w", true, "mounts.refuse .ssh", "", false},
		{"/disk/etc", "/w", true, "mounts.refuse /etc", "", false},
		{"/var/log/nanoclaw-x/y", "/w", true, "mounts.refuse /var/log/nanoclaw-x", "", false},
	} {
		m := Mount{Destination: test.destination, ReadOnly: test.readonly, Source: Source{Asked: test.source, Path: test.source, Kind: KindDir}}
		a, err := p.Admit(m)
		if got := ruleOf(err); got != test.refused {
			t.Errorf("%s -> %s: refused by %q, %v", test.source, test.destination, got, err)
		}
		if err != nil {
			continue
		}
		if got := ruleOf(a.Would); got != test.would {
			t.Errorf("%s -> %s would be refused by %q, %v", test.source, test.destination, got, a.Would)
		}
		if a.ReadOnly != test.forced {
			t.Errorf("%s -> %s is forced to be read-only: %v", test.source, test.destination, a.ReadOnly)
		}
	}
}

func ruleOf(err error) string {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Rule
	}
	return ""
}
