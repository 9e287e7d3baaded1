package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const examplePolicy = "../annotations/testdata/policy.yaml"

func policyWith(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPolicyCommands(t *testing.T) {
	broken := policyWith(t, "agents:\n  - name: a\n    tols: []\n  - nam: b\n")
	other := policyWith(t, "tools: {git-push: {}}\nagents:\n  - {name: sales-agent, tools: [git-push]}\n")
	for name, c := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		"help":               {[]string{"policy"}, 0, "explain", ""},
		"check":              {[]string{"policy", "check", examplePolicy}, 0, "2 agents, 3 tools", ""},
		"check, as JSON":     {[]string{"policy", "check", "--json", examplePolicy}, 0, `"errors": []`, ""},
		"check, broken":      {[]string{"policy", "check", broken}, exitFailed, broken + ":4: ", ""},
		"check, nothing":     {[]string{"policy", "check", "/no/such/file"}, exitFailed, "", "/no/such/file"},
		"check, too much":    {[]string{"policy", "check", "a", "b"}, exitUsage, "", "at most"},
		"matrix":             {[]string{"policy", "matrix", examplePolicy}, 0, "crm-api", ""},
		"matrix, Markdown":   {[]string{"policy", "matrix", "--format=markdown", examplePolicy}, 0, "| tool", ""},
		"matrix, CSV":        {[]string{"policy", "matrix", "--format=csv", examplePolicy}, 0, "tool,crm-api,allow,deny", ""},
		"matrix, no format":  {[]string{"policy", "matrix", "--format=xml", examplePolicy}, exitUsage, "", "xml"},
		"matrix, difference": {[]string{"policy", "matrix", "--diff", other, examplePolicy}, 0, "WIDER", ""},
		"matrix, broken":     {[]string{"policy", "matrix", broken}, exitFailed, "", "tols"},
		"explain":            {[]string{"policy", "explain", "--file", examplePolicy, "docker", "run", "--runtime", "nanoclaw", "--cpus", "2", "busybox"}, 0, "would start", ""},
		"explain, an agent":  {[]string{"policy", "explain", "--file", examplePolicy, "docker", "run", "--runtime", "nanoclaw", "--annotation", "io.nanoclaw.agent=sales-agent", "busybox"}, 0, "CRM_TOKEN at crm.example.com:443", ""},
		"explain, refused":   {[]string{"policy", "explain", "--file", examplePolicy, "docker", "run", "--runtime", "nanoclaw", "-v", "/etc:/x", "busybox"}, exitFailed, "mounts.refuse /etc", ""},
		"explain, nobody":    {[]string{"policy", "explain", "0123456789ab"}, exitFailed, "", "nanoclaw ps lists them"},
		"explain, no image":  {[]string{"policy", "explain", "docker", "run"}, exitUsage, "", "no image"},
	} {
		code, stdout, stderr := run(t, c.args...)
		if code != c.code || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) || (c.stderr == "") != (stderr == "") {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", name, code, stdout, stderr)
		}
	}
}

func TestPolicyJSONIsJSON(t *testing.T) {
	for _, args := range [][]string{
		{"policy", "check", "--json", examplePolicy},
		{"policy", "matrix", "--format=json", examplePolicy},
		{"policy", "matrix", "--format=json", "--diff", examplePolicy, examplePolicy},
		{"policy", "explain", "--json", "--file", examplePolicy, "run", "busybox"},
	} {
		if _, stdout, stderr := run(t, args...); !json.Valid([]byte(stdout)) || stderr != "" {
			t.Errorf("%v: stdout %q, stderr %q", args, stdout, stderr)
		}
	}
}

func TestPolicyFromStdin(t *testing.T) {
	var out, errs strings.Builder
	code := Run(t.Context(), []string{"policy", "check", "-"}, Streams{In: strings.NewReader("agents: [{name: a}]\n"), Out: &out, Err: &errs})
	if code != 0 || !strings.Contains(out.String(), "1 agent,") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, out.String(), errs.String())
	}
}
