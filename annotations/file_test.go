package annotations

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

const fileName1 = "policy.yaml"

func parse(t *testing.T, text string) *File {
	t.Helper()
	f, err := ParseFile(fileName1, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// example is the file of the documentation, in testdata.
func example(t *testing.T) *File {
	t.Helper()
	data, err := os.ReadFile("testdata/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(data))
}

func TestExampleFile(t *testing.T) {
	f := example(t)
	if got := f.agentNames(); !slices.Equal(got, []string{"sales-agent", "support-agent"}) {
		t.Errorf("agents %v", got)
	}
	p, err := ForAgent(f, "support-agent")
	if err != nil {
		t.Fatal(err)
	}
	if p.Mode != ModeAudit || p.Exec.Mode != ExecImage || !p.ReadOnly("/anything") || p.Agent != "support-agent" {
		t.Errorf("%+v", p)
	}
	for query, want := range map[string]Decision{
		"tool support-ticket-api":                  DecisionAllow,
		"tool crm-api":                             DecisionDeny,
		"exec /usr/local/bin/crm list":             DecisionDeny,
		"exec /usr/bin/git push":                   DecisionDeny,
		"exec /usr/bin/git -C /w push -f":          DecisionDeny,
		"exec /usr/bin/git status":                 DecisionAllow,
		"network crm.example.com":                  DecisionDeny,
		"network crm.example.com:80":               DecisionAllow,
		"network 169.254.169.254:80":               DecisionDeny,
		"network 10.1.2.3":                         DecisionDeny,
		"network example.org":                      DecisionAllow,
		"secret CRM_TOKEN":                         DecisionDeny,
		"mount /var/run/docker.sock":               DecisionDeny,
		"mount /home/ada/project:/w":               DecisionAllow, // read-only, by mounts.readonly
		"mount /srv/data:/w:rw":                    DecisionAllow,
		"mount /opt/x:/w":                          DecisionDeny,
		"mount /srv:/w":                            DecisionDeny,
		"mount /home/ada/.ssh:/w:ro":               DecisionDeny,
		"mount /var/lib/docker/volumes/v/_data:/w": DecisionAllow,
	} {
		if got := decide(t, p, query); got.Decision != want {
			t.Errorf("%s: %+v, want %s", query, got, want)
		}
	}
	sales, err := ForAgent(f, "sales-agent")
	if err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]Decision{
		"exec /usr/local/bin/crm": DecisionAllow, "secret CRM_TOKEN": DecisionAllow, "network crm.example.com:443": DecisionAllow,
		"mount /srv/data:/w:rw": DecisionDeny, "mount /srv/data:/w:ro": DecisionAllow, "mount /home/ada/p:/w": DecisionAllow,
	} {
		if got := decide(t, sales, query); got.Decision != want {
			t.Errorf("sales: %s: %+v, want %s", query, got, want)
		}
	}
}

func decide(t *testing.T, p *Policy, query string) Verdict {
	t.Helper()
	q, err := ParseQuery(query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	v := p.Decide(q)
	if v.Rule == "" || v.Layer == "" {
		t.Errorf("%s: a verdict without a rule or its layer: %+v", query, v)
	}
	return v
}

func TestSourceOfEveryRule(t *testing.T) {
	f := parse(t, `
ceiling:
  exec: {deny: [/usr/bin/nc]}
  limits: {cpus: 8}
tools:
  git-push:
    exec: [{path: /usr/bin/git, argv: [push]}]
agents:
  - name: a
    exec:
      mode: image
      ask: [/usr/bin/rm]
`)
	p, err := effective(f, must(readAnnotations(map[string]string{KeyAgent: "a", KeyExecDeny: "/usr/bin/dd", KeyLimitsCPUs: "2"}, Everything)))
	if err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]Origin{
		"exec /usr/bin/nc":       {LayerCeiling, "policy.yaml:3"},
		"exec /usr/bin/git push": {LayerAgent, "policy.yaml:9"},
		"exec /usr/bin/rm":       {LayerAgent, "policy.yaml:12"},
		"exec /usr/bin/dd":       {LayerAnnotation, KeyExecDeny},
		"exec /bin/sh":           {LayerAgent, "policy.yaml:11"},
	} {
		if got := decide(t, p, query); got.Origin != want {
			t.Errorf("%s: %+v, want %+v", query, got, want)
		}
	}
	if l := p.Limits.CPUs; l.Value != 2000 || l.Where != KeyLimitsCPUs {
		t.Errorf("cpus %+v", l)
	}
	if l := p.Ceiling.CPUs; l.Value != 8000 || l.Where != "policy.yaml:4" {
		t.Errorf("ceiling's cpus %+v", l)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestAllProblemsAtOnce: each with its line, and with the nearest known word.
func TestAllProblemsAtOnce(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string // "line: words"
	}{
		{"unknown keys", "versn: 1\nagents:\n  - name: a\n    tols: []\n    exec: {mod: any}\n", []string{"1: versn|version?", "4: tols|tools?", "5: mod|mode?"}},
		{"unknown tool", "tools: {crm-api: {}}\nagents:\n  - name: a\n    tools: [crm-ap]\n", []string{"4: crm-ap|did you mean crm-api?|agent a"}},
		{"names and keys", "tool: {}\nagents:\n  - name: a\n    tools: [x]\n", []string{"1: tools?", "4: unknown tool"}},
		{"unknown values", "agents:\n  - name: a\n    runtime: sandbx\n    vm: macro\n    exec: {mode: img}\n    mode: audti\n", []string{"3: sandbox?", "4: micro?", "5: img", "6: audit?"}},
		{"wrong kinds", "agents: {}\ntools: []\nceiling: 7\n", []string{"1: must be a list", "2: must be an object", "3: must be an object"}},
		{"no value", "agents:\n  - name: a\n    tools:\n", []string{"3: no value"}},
		{"booleans", "agents:\n  - name: a\n    readonly_tools: yes\n", []string{"3: true or false"}},
		{"version", "version: 2\n", []string{"1: knows version 1"}},
		{"twice", "agents:\n  - name: a\n  - name: a\n", []string{"3: another agent|policy.yaml:2"}},
		{"no name", "agents:\n  - tools: []\n", []string{"2: no name"}},
		{"bad name", "agents:\n  - name: \"a b\"\n", []string{"2: not a name"}},
		{"risk", "tools:\n  t: {risk: irreversble}\n", []string{"2: irreversible?|tool t"}},
		{"secret", "tools:\n  t:\n    secrets: [{env: X, source: \"fil:/x\", hosts: [x.org]}, {env: Y}]\n", []string{"3: file?", "3: no source", "3: no hosts"}},
		{"programs", "tools:\n  t:\n    exec: [git, {argv: [x]}, {path: /a, sha256: 12}]\n", []string{"3: absolute", "3: no path", "3: sha256|in quotes"}},
		{"endpoints", "tools:\n  t:\n    endpoints: [{port: 443}, {host: x.org, port: 0}, {host: \"a b\"}]\n", []string{"3: no host", "3: port", "3: not a host name"}},
		{"ceiling's mounts", "ceiling:\n  mounts:\n    allow: [{source: home, access: rw}, {source: /a}, {source: /b, access: w}]\n", []string{"3: absolute", "3: no access", "3: value \"w\""}},
		{"limits", "ceiling:\n  limits: {cpus: many, memory: 1m, pids: 0}\n", []string{"2: number of CPUs", "2: less than 6m", "2: processes"}},
		{"audit for all", "ceiling:\n  mode: audit\n", []string{"2: can only say enforce"}},
		{"tests", "agents:\n  - name: a\n    tests:\n      deny: [\"exc /bin/sh\", exec, \"mount x\"]\n", []string{"4: exec?", "4: verb", "4: absolute"}},
		{"list and mode", "agents:\n  - name: a\n    exec: {mode: image, allow: [/bin/sh]}\n", []string{"3: mode: allowlist"}},

		{"wider: limits", "ceiling:\n  limits: {cpus: 2}\nagents:\n  - name: a\n    limits: {cpus: 4}\n", []string{"5: cpus is 4, and the ceiling is 2"}},
		{"wider: exec", "ceiling:\n  exec: {mode: image, deny: [/usr/bin/nc]}\nagents:\n  - name: a\n    exec: {mode: any}\n  - name: b\n    exec: {allow: [/usr/bin/nc]}\n", []string{"5: any is wider", "7: denies /usr/bin/nc"}},
		{"wider: network", "ceiling:\n  network: {allow: [\"*.example.com:443\"]}\nagents:\n  - name: a\n    network: {allow: [\"a.example.com:443\", example.org]}\n  - name: b\n    network: open\n", []string{"5: example.org", "7: open is wider"}},
		{"wider: a tool's endpoint", "ceiling:\n  network: {deny: [private]}\ntools:\n  t: {endpoints: [\"10.0.0.7:22\"]}\nagents:\n  - name: a\n    tools: [t]\n", []string{"7: tool t|denies private"}},
		{"wider: a tool's folder", "ceiling:\n  mounts: {allow: [{source: /srv, access: ro}]}\ntools:\n  t: {mounts: [{source: /srv/t, access: rw}]}\nagents:\n  - name: a\n    tools: [t]\n", []string{"7: /srv/t:rw"}},
		{"wider: tools", "ceiling:\n  tools: [a]\ntools: {a: {}, b: {}}\nagents:\n  - name: x\n    tools: [a, b]\n", []string{"6: b is not in the ceiling's list"}},
		{"wider: mode", "ceiling:\n  mode: enforce\nagents:\n  - name: x\n    mode: audit\n", []string{"5: audit is wider"}},
		{"syntax", "agents:\n\t- x\n", []string{"2: not YAML"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseFile(fileName1, []byte(c.text))
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("got %v, want problems", err)
			}
			var left []string
			for _, p := range problems {
				left = append(left, p.String())
			}
			for _, want := range c.want {
				line, words, _ := strings.Cut(want, ": ")
				i := slices.IndexFunc(left, func(s string) bool {
					for _, w := range strings.Split(words, "|") {
						if !strings.Contains(s, w) {
							return false
						}
					}
					return strings.HasPrefix(s, fileName1+":"+line+": ")
				})
				if i < 0 {
					t.Errorf("no problem %q in\n%v", want, err)
					continue
				}
				left = slices.Delete(left, i, i+1)
			}
			if len(left) > 0 {
				t.Errorf("more problems than expected: %q", left)
			}
		})
	}
}

func TestEmptyFileIsTheBaseline(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "version: 1\n", "agents: []\n"} {
		p, err := ForAgent(parse(t, text), "")
		if err != nil {
			t.Fatal(err)
		}
		if none := must(ForAgent(nil, "")); p.Digest() != none.Digest() {
			t.Errorf("%q is not the baseline", text)
		}
	}
}

func TestDigestIsOfWhatIsSaid(t *testing.T) {
	const text = "agents:\n  - name: a\n    exec: {deny: [/x, /y]}\n"
	a := must(ForAgent(parse(t, text), "a")).Digest()
	for _, same := range []string{"# a comment\n" + text, strings.Replace(text, "/x, /y", "/y, /x, /x", 1), "version: 1\n" + text} {
		if must(ForAgent(parse(t, same), "a")).Digest() != a {
			t.Errorf("%q has another digest", same)
		}
	}
	if must(ForAgent(parse(t, strings.Replace(text, "/y", "/z", 1)), "a")).Digest() == a {
		t.Error("another rule has the same digest")
	}
	one, err := Compile(Input{ID: "one", Spec: dockerSpec()})
	other, err2 := Compile(Input{ID: "other", Spec: dockerSpec()})
	if err != nil || err2 != nil || one.Digest() != other.Digest() {
		t.Error("two containers of one policy have two digests")
	}
}

func TestAgentInAnnotation(t *testing.T) {
	f := parse(t, "agents:\n  - name: reader\n    mounts: {readonly: [\"*\"]}\n  - name: runner\n    exec: {mode: image}\n")
	for _, c := range []struct {
		agent  string
		refuse []string
	}{
		{"reader", nil},
		{"reder", []string{"no agent of this name", "nearest is reader", "write reader"}},
		{"zzzzzzz", []string{"no agent of this name", "remove it"}},
		{"runner", []string{"agent \"runner\"", "exec.mode image", "not supported by this version", "policy.yaml:5"}},
	} {
		p, err := Compile(Input{ID: testID, Annotations: map[string]string{KeyAgent: c.agent}, Spec: dockerSpec(), Host: f})
		if c.refuse != nil {
			refusal(t, err, c.refuse...)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if !p.ReadOnly("/w") || p.Agent != c.agent {
			t.Errorf("%+v", p)
		}
	}
	if _, err := Compile(Input{ID: testID, Annotations: map[string]string{KeyAgent: "runner"}, Spec: dockerSpec(), Host: f, Enforced: Enforced{CapExec}}); err != nil {
		t.Errorf("refused by who can enforce it: %v", err)
	}
}

func TestWiderThanTheCeiling(t *testing.T) {
	f := parse(t, `
ceiling:
  exec: {allow: ["/usr/bin/*", "/bin/sh"], deny: [/usr/bin/nc]}
  network: {mode: filtered, deny: [private]}
  limits: {cpus: 2, memory: 1g, pids: 100, lifetime: 1h}
  tools: [a]
tools: {a: {secrets: [{env: A, source: "file:/a", hosts: [a.org]}]}, b: {}}
`)
	for key, values := range map[string][2]string{
		KeyExecAllow:      {"/usr/bin/git", "/usr/sbin/x"},
		KeyExecMode:       {"", "image"},
		KeyNetwork:        {"none", ""},
		KeyNetworkAllow:   {"example.org", "10.0.0.1:443"},
		KeyLimitsCPUs:     {"2", "2.001"},
		KeyLimitsMemory:   {"512m", "2g"},
		KeyLimitsPids:     {"7", "101"},
		KeyLimitsLifetime: {"1h", "2h"},
		KeyTools:          {"a", "b"},
	} {
		for i, value := range values {
			if value == "" {
				continue
			}
			requests, err := readAnnotations(map[string]string{key: value, KeyExecAllow: "/bin/sh"}, Everything)
			if key == KeyExecAllow {
				requests, err = readAnnotations(map[string]string{key: value}, Everything)
			}
			if key == KeyExecMode {
				requests, err = readAnnotations(map[string]string{key: value}, Everything)
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err = effective(f, requests)
			if i == 0 && err != nil {
				t.Errorf("%s=%s was refused: %v", key, value, err)
			}
			if i == 1 {
				refusal(t, err, key, "ceiling", "policy.yaml:")
			}
		}
	}
}

func FuzzFile(f *testing.F) {
	data, err := os.ReadFile("testdata/policy.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte("ceiling: {exec: {mode: allowlist}, network: none, limits: {cpus: 1}, mode: enforce}\nagents: [{name: a}]\n"))
	f.Add([]byte("tools: {t: {risk: irreversible, exec: [/a], mounts: [{source: /s, access: ro}]}}\nagents: [{name: a, tools: [t], readonly_tools: [t], secrets: [], exec: {allow: [/b]}}]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := ParseFile(fileName1, data)
		if err != nil {
			var problems Problems
			if !errors.As(err, &problems) || len(problems) == 0 || len(problems) > maxFound {
				t.Errorf("not a list of problems: %v", err)
			}
			for _, p := range problems {
				if p.Line < 1 {
					t.Errorf("a problem without a line: %s", p)
				}
			}
			return
		}
		for _, name := range append(file.agentNames(), "") {
			p, err := ForAgent(file, name)
			if err != nil {
				var r *Refusal
				if !errors.As(err, &r) {
					t.Errorf("not a refusal: %v", err)
				}
				continue
			}
			if p.CheckMount(Mount{Destination: "/a", ReadOnly: true, Source: Source{Asked: "/x", Path: "/etc", Kind: KindDir}}) == nil {
				t.Errorf("agent %q opened /etc", name)
			}
			_ = p.Digest()
			_ = p.Needs()
		}
	})
}
