package task

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nanoclaw/nanoclaw/internal/fullspec"
)

func TestUnknownFieldsAreNamed(t *testing.T) {
	for document, want := range map[string][]string{
		`{"root":{"path":"r"},"process":{"cwd":"/"},"linux":{"future":{"x":[1]}}}`: {"linux.future"},
		`{"root":{"path":"r"},"process":{"cwd":"/","args":["a"]},"linux":{"seccomp":{"defaultAction":"A","syscalls":[{"names":[],"action":"A"},{"names":["x"],"action":"A","why":"so"}]}},"later":true}`: {"later", "linux.seccomp.syscalls.why"},
		// What is known, and has the value that it has when it is left out.
		`{"root":{"path":"r","readonly":false},"process":{"cwd":"/","user":{}},"hostname":"","mounts":[],"linux":{"resources":{"memory":{}}},"annotations":null}`: nil,
	} {
		bundle := t.TempDir()
		if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(document), 0o600); err != nil {
			t.Fatal(err)
		}
		_, unknown, err := readSpec(bundle)
		if err != nil {
			t.Fatal(err)
		}
		for i, name := range want {
			want[i] = name + ": this version of nanoclaw does not know the field"
		}
		if !slices.Equal(unknown, want) {
			t.Errorf("%s\nunknown: %q\nwant %q", document, unknown, want)
		}
	}
}

func TestEveryFieldIsKnown(t *testing.T) {
	data, err := json.Marshal(fullspec.Document[specs.Spec](nil))
	if err != nil {
		t.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		t.Fatal(err)
	}
	if lost, err := unread(data, &spec); err != nil || len(lost) > 0 {
		t.Errorf("lost in reading: %q, %v", lost, err)
	}
}
