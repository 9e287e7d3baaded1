package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// TestGuide keeps docs/agents.md to what testdata/serial/agents.txtar does: the
// files are the same in both, and the policy is the one of docs/policy.md.
func TestGuide(t *testing.T) {
	script, err := txtar.ParseFile("testdata/serial/agents.txtar")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range script.Files {
		files[f.Name] = string(f.Data)
	}
	for _, c := range []struct{ page, file string }{
		{"agents.md", "policy.yaml"}, {"agents.md", "compose.yaml"}, {"agents.md", "crm"}, {"agents.md", "tickets"}, {"policy.md", "policy.yaml"},
	} {
		page, err := os.ReadFile("../../docs/" + c.page)
		if err != nil {
			t.Fatal(err)
		}
		if files[c.file] == "" || !strings.Contains(string(page), "\n"+files[c.file]) {
			t.Errorf("docs/%s does not have %s as the script has it", c.page, c.file)
		}
	}
}
