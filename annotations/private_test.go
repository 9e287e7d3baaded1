package annotations

import "testing"

// The runtime's own folders are never shared, wherever they were put: whoever can
// write to the audit log can rewrite it.
func TestPrivateFolders(t *testing.T) {
	compile := func(private ...string) *Policy {
		t.Helper()
		p, err := Compile(Input{ID: testID, Spec: dockerSpec(), Private: private})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	moved := compile("/var/log/nanoclaw", "/srv/audit/")
	for source, refused := range map[string]bool{
		"/srv/audit":            true,
		"/srv/audit/head":       true,
		"/srv":                  true,
		"/srv/audit-of-theirs":  false,
		"/srv/data":             false,
		"/var/log/nanoclaw":     true,
		"/var/log/nanoclaw/old": true,
	} {
		if err := moved.CheckMount(Mount{Destination: "/w", Source: dir(source)}); (err != nil) != refused {
			t.Errorf("%s: %v, want it refused: %v", source, err, refused)
		}
	}
	// A tool's secret is not to be seen, and neither is the folder it is in.
	secrets := parse(t, "tools: {t: {secrets: [{env: E, source: \"file:/srv/keys/e\", hosts: [x.org]}]}}\n")
	p, err := Compile(Input{ID: testID, Spec: dockerSpec(), Host: secrets})
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range []Source{fileAt("/srv/keys/e"), dir("/srv/keys"), dir("/srv")} {
		refusal(t, p.CheckMount(Mount{Destination: "/w", ReadOnly: true, Source: source}), "a secret of the tool t", "policy.yaml:1")
	}
	// Without the setting a container gets what it asks for.
	if err := compile().CheckMount(Mount{Destination: "/w", Source: dir("/srv/audit")}); err != nil {
		t.Error(err)
	}
	// What the baseline refuses already makes no other policy.
	if compile("/var/log/nanoclaw", "/run/nanoclaw").Digest() != compile().Digest() {
		t.Error("the default folders change the digest")
	}
}
