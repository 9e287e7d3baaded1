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
	// Without the setting a container gets what it asks for.
	if err := compile().CheckMount(Mount{Destination: "/w", Source: dir("/srv/audit")}); err != nil {
		t.Error(err)
	}
	// What the baseline refuses already makes no other policy.
	if compile("/var/log/nanoclaw", "/run/nanoclaw").Digest() != compile().Digest() {
		t.Error("the default folders change the digest")
	}
}
