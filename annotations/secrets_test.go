package annotations

import (
	"fmt"
	"strings"
	"testing"
)

func TestSecretsHavePorts(t *testing.T) {
	for endpoints, c := range map[string]struct{ hosts, want string }{
		"":                      {"[x.org]", "[x.org:443]"},
		"x.org":                 {"[x.org]", "[x.org:443]"},
		"x.org:8443":            {"[x.org]", "[x.org:8443]"},
		"x.org:8443, y.org:1":   {"[x.org]", "[x.org:8443]"},
		"x.org:8443, x.org:443": {"[x.org, x.org:8443]", "[x.org:443 x.org:8443]"},
		"x.org:9":               {"[x.org:8443]", "[x.org:8443]"},
		"a.x.org:8443":          {"[\"*.x.org\"]", "[*.x.org:8443]"},
		"\"**.x.org:8443\"":     {"[a.x.org]", "[a.x.org:8443]"},
	} {
		host := parse(t, fmt.Sprintf("tools: {t: {endpoints: [%s], secrets: [{env: E, source: \"file:/e\", hosts: %s}]}}\nagents: [{name: a, tools: [t]}]\n", endpoints, c.hosts))
		p, err := ForAgent(host, "a")
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(p.Secrets[0].Hosts); got != c.want {
			t.Errorf("%s at %s: %s, want %s", c.hosts, endpoints, got, c.want)
		}
		if !p.Intercepts() {
			t.Error("its connections are not looked into")
		}
	}
}

func TestOneValueUnderAName(t *testing.T) {
	const tools = "tools: {t: {secrets: [{env: E, source: \"file:/t\", hosts: [x.org]}]}, u: {secrets: [{env: E, source: \"file:/%s\", hosts: [y.org]}]}}\nagents: [{name: a, tools: [t, u]}, {name: b, tools: [u]}]\n"
	if _, err := ForAgent(parse(t, fmt.Sprintf(tools, "u")), "a"); err == nil || !strings.Contains(err.Error(), "different values under this name") {
		t.Error(err)
	}
	for file, agent := range map[string]string{"t": "a", "u": "b"} {
		if _, err := ForAgent(parse(t, fmt.Sprintf(tools, file)), agent); err != nil {
			t.Error(err)
		}
	}
}

// In the mode audit what a read-only endpoint refuses is recorded.
func TestReadonlyEndpointInAudit(t *testing.T) {
	host := parse(t, "tools: {t: {endpoints: [x.org]}}\nagents: [{name: a, tools: [t], readonly_tools: true, mode: audit}]\n")
	p, err := ForAgent(host, "a")
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Network.Readonly) != 1 || len(p.Held().Network.Readonly) != 0 {
		t.Errorf("%+v, held %+v", p.Network.Readonly, p.Held().Network.Readonly)
	}
}
