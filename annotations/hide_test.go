package annotations

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func hiding(t *testing.T, patterns string, mounts ...specs.Mount) *Policy {
	t.Helper()
	s := dockerSpec()
	s.Mounts = append(s.Mounts, mounts...)
	p, err := Compile(Input{ID: testID, Spec: s, Annotations: map[string]string{KeyMountsHide: patterns}, Enforced: Everything})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestHiddenBelowADestination(t *testing.T) {
	work := specs.Mount{Type: "bind", Source: "/srv/x", Destination: "/w", Options: []string{"rbind"}}
	for _, c := range []struct {
		patterns, destination string
		hides                 bool
	}{
		{"/w/.env*", "/w", true},
		{"/w/.env*", "/w/", true},
		{"/w/.env*", "/w/sub", false},
		{"/w/**/secret", "/w/sub", true},
		{"/w/.env*", "/other", false},
		{"/**/.env*", "/other", true},
	} {
		if got := hiding(t, c.patterns, work).Hidden(c.destination); (got != nil) != c.hides {
			t.Errorf("%s below %s: %q", c.patterns, c.destination, got)
		}
	}
	if got := mustCompile(t, dockerSpec()).Hidden("/w"); got != nil {
		t.Errorf("without a rule: %q", got)
	}
}

func TestMountsThatCannotBeHidden(t *testing.T) {
	p := hiding(t, "/**/.env*,/w/x/secret", specs.Mount{Type: "bind", Source: "/srv/x", Destination: "/w", Options: []string{"rbind"}})
	mount := func(destination string, s Source) error {
		s.Asked, s.Path = "/srv/x", "/srv/x"
		return p.CheckMount(Mount{Destination: destination, Source: s})
	}
	folder := Source{Kind: KindDir, FSType: "ext4"}
	for _, destination := range []string{"/w", "/w/x", "/data"} {
		if err := mount(destination, folder); err != nil {
			t.Errorf("%s: %v", destination, err)
		}
	}
	refusal(t, mount("/w/.env.d", folder), "/**/.env*", "all of it would be hidden")
	refusal(t, mount("/app/.env", Source{Kind: KindFile}), "all of it would be hidden")
	refusal(t, mount("/w/x/secret/deeper", folder), "/w/x/secret", "all of it would be hidden")
	refusal(t, mount("/w", Source{Kind: KindDir, FSType: "vfat"}), "another spelling")
	refusal(t, mount("/w", Source{Kind: KindDir, FSType: "ext4", Inside: []Source{{Path: "/srv/x/usb", FSType: "exfat"}}}), "/srv/x/usb", "another spelling")
	if err := mount("/app/.env", Source{Kind: KindChar, Major: 1, Minor: 3}); err != nil {
		t.Errorf("the VM's own null device: %v", err)
	}
}
