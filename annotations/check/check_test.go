package check

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/nanoclaw/nanoclaw/annotations"
)

func TestExample(t *testing.T) {
	data, err := os.ReadFile("../testdata/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r := File("policy.yaml", data, annotations.Everything)
	if !r.OK() {
		t.Errorf("errors: %v", r.Errors)
	}
	var out bytes.Buffer
	if err := r.Write(&out); err != nil {
		t.Fatal(err)
	}
	for _, words := range []string{
		"2 agents, 3 tools; 2 tests passed, 0 failed, 1 undecided; 0 errors",
		`warning: policy.yaml:34: agent support-agent: the test deny "exec /usr/bin/nc" cannot be decided here: it depends on whether the image brought /usr/bin/nc`,
		"warning: policy.yaml:4: ceiling: mounts.allow gives all of /home for writing",
		"tool git-push: no agent has it",
		"the mode is audit",
	} {
		if !strings.Contains(out.String(), words) {
			t.Errorf("the report lacks %q:\n%s", words, out.String())
		}
	}
	if strings.Contains(out.String(), "does not enforce") {
		t.Errorf("everything is enforced:\n%s", out.String())
	}
	if r := File("policy.yaml", data, nil); !strings.Contains(text(t, r), "sales-agent: its rule \"exec.deny") {
		t.Errorf("no word on what is not enforced:\n%s", text(t, r))
	}
}

func text(t *testing.T, r *Report) string {
	t.Helper()
	var out bytes.Buffer
	if err := r.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestReports(t *testing.T) {
	for _, c := range []struct {
		name, file string
		ok         bool
		want       []string
	}{
		{"two errors", "a: 1\nagents: [{name: x, tols: []}]\n", false, []string{"policy.yaml:1", "policy.yaml:2", "2 errors"}},
		{"a failed test", "agents:\n  - name: x\n    tests: {deny: [\"exec /bin/sh\"]}\n", false, []string{`policy.yaml:3: agent x: the test deny "exec /bin/sh" fails: it is allow`}},
		{"a passed test", "agents:\n  - name: x\n    exec: {deny: [/bin/nc]}\n    tests: {deny: [\"exec /bin/nc -l\"], allow: [\"exec /bin/sh\"]}\n", true, []string{"2 tests passed"}},
		{"ask is not allow", "agents:\n  - name: x\n    exec: {ask: [/bin/rm]}\n    tests: {allow: [\"exec /bin/rm\"]}\n", false, []string{"it is ask"}},
		{"nothing can run", "agents:\n  - name: x\n    exec: {mode: allowlist}\n", false, []string{"policy.yaml:2: agent x", "none is listed"}},
		{"the same tools", "tools: {t: {}}\nagents:\n  - {name: a, tools: [t]}\n  - {name: b, tools: [t]}\n", true, []string{"policy.yaml:3: all 2 agents have the same tools (t)"}},
		{"different tools", "tools: {t: {}, u: {}}\nagents:\n  - {name: a, tools: [t]}\n  - {name: b, tools: [u]}\n", true, []string{"0 warnings"}},
		{"unused by nobody", "tools: {t: {}}\n", true, []string{"tool t: no agent has it"}},
		{"unused: the network", "tools: {t: {endpoints: [x.org]}}\nagents:\n  - {name: a, tools: [t], network: none}\n", true, []string{"whose endpoint x.org is denied"}},
		{"unused: the program", "tools: {t: {exec: [/a]}}\nagents:\n  - {name: a, tools: [t], exec: {deny: [\"/*\"]}}\n", true, []string{"whose program /a is denied"}},
		{"wildcards", "tools: {t: {exec: [\"/a/*\"], endpoints: [\"*.x.org\"]}}\nagents:\n  - {name: a, tools: [t], exec: {allow: [\"/b/*\", /bin/sh]}, network: {allow: [\"**\"]}}\n", true,
			[]string{"exec.allow has the wildcard /b/*", "/bin/sh, which runs any code", "wildcard **", "wildcard /a/*", "wildcard *.x.org"}},
		{"read-write roots", "ceiling: {mounts: {allow: [{source: /, access: rw}]}}\nagents: [{name: a, mounts: {allow: [\"/:rw\"]}}]\n", true, []string{"gives all of / for writing", "mounts.allow gives / for writing"}},
		{"a secret's host", "tools: {t: {endpoints: [x.org], secrets: [{env: E, source: \"file:/e\", hosts: [y.org]}]}}\nagents: [{name: a, tools: [t]}]\n", true, []string{"may be sent to y.org"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := File("policy.yaml", []byte(c.file), annotations.Everything)
			if r.OK() != c.ok {
				t.Errorf("OK is %v:\n%s", r.OK(), text(t, r))
			}
			for _, words := range c.want {
				if !strings.Contains(text(t, r), words) {
					t.Errorf("the report lacks %q:\n%s", words, text(t, r))
				}
			}
		})
	}
}
