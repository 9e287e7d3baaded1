package manager

import (
	"os"
	"path/filepath"
	"testing"
)

func TestNetworkPath(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.json")
	for spec, want := range map[string]string{
		`{}`: "",
		`{"linux":{"namespaces":[{"type":"pid","path":"/proc/7/ns/pid"}]}}`:                    "",
		`{"linux":{"namespaces":[{"type":"network"}]}}`:                                        "",
		`{"linux":{"namespaces":[{"type":"pid"},{"type":"network","path":"/proc/7/ns/net"}]}}`: "/proc/7/ns/net",
	} {
		if err := os.WriteFile(file, []byte(spec), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := networkPath(file); err != nil || got != want {
			t.Errorf("%s has the network namespace %q, %v; want %q", spec, got, err, want)
		}
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := networkPath(file); err == nil {
		t.Error("half a document was read")
	}
}
