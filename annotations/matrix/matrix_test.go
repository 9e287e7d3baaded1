package matrix

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/nanoclaw/nanoclaw/annotations"
)

func of(t *testing.T, text string) *Matrix {
	t.Helper()
	f, err := annotations.ParseFile("policy.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(f)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func example(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("../testdata/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func value(t *testing.T, m *Matrix, kind Kind, name, agent string) string {
	t.Helper()
	return m.at(Row{Kind: kind, Name: name}, agent).Value
}

func TestExample(t *testing.T) {
	m := of(t, example(t))
	for _, c := range []struct {
		kind        Kind
		name, agent string
		want        string
	}{
		{Setting, "mode", "support-agent", "audit"},
		{Setting, "exec", "support-agent", "image"},
		{Setting, "cpus", "sales-agent", "8"},
		{Setting, "memory", "sales-agent", "16g"},
		{Setting, "lifetime", "sales-agent", "any"},
		{Tool, "crm-api", "sales-agent", "allow"},
		{Tool, "crm-api", "support-agent", "deny"},
		{Tool, "support-ticket-api", "support-agent", "allow ro"},
		{Mount, "/home", "sales-agent", "rw"},
		{Mount, "/home", "support-agent", "ro"},
		{Mount, "/srv/data", "sales-agent", "ro"},
		{Mount, others, "sales-agent", "deny"},
		{Host, "crm.example.com:443", "sales-agent", "allow"},
		{Host, "crm.example.com:443", "support-agent", "deny"},
		{Host, "private", "sales-agent", "deny"},
		{Host, others, "sales-agent", "allow"},
	} {
		if got := value(t, m, c.kind, c.name, c.agent); got != c.want {
			t.Errorf("%s %s of %s is %q, want %q", c.kind, c.name, c.agent, got, c.want)
		}
	}
	for _, r := range m.Rows {
		for i, c := range r.Cells {
			if c.From == "" {
				t.Errorf("%s %s of %s comes from nowhere", r.Kind, r.Name, m.Agents[i])
			}
		}
	}
}

func TestPatterns(t *testing.T) {
	m := of(t, `
tools: {t: {risk: irreversible, endpoints: ["**.x.org"]}}
agents:
  - {name: a, tools: [t], network: {deny: [bad.x.org]}}
  - {name: b, network: {allow: ["*.y.org", z.org]}}
  - {name: c, network: none}
`)
	for name, want := range map[string]string{
		"**.x.org": "partly deny deny", "bad.x.org": "deny deny deny", "*.y.org": "allow allow deny", "z.org": "allow allow deny", others: "allow deny deny",
	} {
		var got []string
		for _, agent := range m.Agents {
			got = append(got, value(t, m, Host, name, agent))
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s is %s, want %s", name, s, want)
		}
	}
}

func TestFormats(t *testing.T) {
	m := of(t, example(t))
	out := map[Format]string{}
	for _, f := range Formats {
		var b bytes.Buffer
		if err := m.Write(&b, f); err != nil {
			t.Fatal(err)
		}
		out[f] = b.String()
	}
	if !strings.Contains(out[Text], "tool     crm-api") || strings.Contains(out[Text], " \n") {
		t.Errorf("text:\n%s", out[Text])
	}
	if !strings.HasPrefix(out[Markdown], "| kind ") || !strings.Contains(out[Markdown], "\n|---") {
		t.Errorf("markdown:\n%s", out[Markdown])
	}
	rows, err := csv.NewReader(strings.NewReader(out[CSV])).ReadAll()
	if err != nil || len(rows) != len(m.Rows)+1 || len(rows[0]) != len(m.Agents)+2 {
		t.Errorf("csv: %v\n%s", err, out[CSV])
	}
	var back Matrix
	if err := json.Unmarshal([]byte(out[JSON]), &back); err != nil || len(back.Rows) != len(m.Rows) {
		t.Errorf("json: %v\n%s", err, out[JSON])
	}
	if err := m.Write(&bytes.Buffer{}, "xml"); err == nil {
		t.Error("wrote an unknown format")
	}
}

func TestDiff(t *testing.T) {
	before := of(t, example(t))
	if changes := Diff(before, before); len(changes) > 0 {
		t.Errorf("a file differs from itself: %+v", changes)
	}
	text := strings.Replace(example(t), "tools: [crm-api]", "tools: [crm-api, git-push]", 1)
	text = strings.Replace(text, "mode: audit ", "mode: enforce ", 1)
	text = strings.Replace(text, "  - name: support-agent", "  - name: third\n  - name: support-agent", 1)
	text = strings.Replace(text, "cpus: 8", "cpus: 4", 1)
	var b bytes.Buffer
	if err := WriteDiff(&b, Diff(before, of(t, text)), CSV); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"sales-agent,tool,git-push,deny,ask,WIDER", "support-agent,setting,mode,audit,enforce,NARROWER", "sales-agent,setting,cpus,8,4,CHANGED",
		"third,tool,crm-api,-,deny,WIDER",
	} {
		if !strings.Contains(b.String(), line+"\n") {
			t.Errorf("the difference lacks %q:\n%s", line, b.String())
		}
	}
	if strings.Contains(b.String(), "support-agent,tool") {
		t.Errorf("too much:\n%s", b.String())
	}
}
