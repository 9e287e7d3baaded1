package program

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	for name, mode := range map[string]os.FileMode{"in-path": 0o755, "no-program": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	elsewhere := filepath.Join(t.TempDir(), "known")
	if err := os.WriteFile(elsewhere, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, c := range []struct {
		name  string
		known []string
		want  string
	}{
		{"in-path", nil, at("in-path")},
		{at("in-path"), nil, at("in-path")},
		{"known", []string{"/absent/known", elsewhere}, elsewhere},
		{"other", []string{elsewhere}, ""}, // somebody's own program is not replaced
		{"/absent/known", []string{elsewhere}, ""},
		{"in-path", []string{"/absent/in-path"}, at("in-path")},
		{"no-program", []string{at("no-program")}, ""},
		{"absent", nil, ""},
	} {
		got, err := Find(c.name, "/etc/x.yaml", c.known...)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("Find(%q, %q) = %q, %v; want %q", c.name, c.known, got, err, c.want)
		}
		if err != nil && (!strings.Contains(err.Error(), c.name) || !strings.Contains(err.Error(), "/etc/x.yaml")) {
			t.Errorf("the error does not help: %v", err)
		}
	}
}
