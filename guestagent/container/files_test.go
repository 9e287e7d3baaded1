package container

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestFilesOfTheHost(t *testing.T) {
	bundle, spec := t.TempDir(), inMemory()
	err := shareFiles(bundle, spec, []*agent.File{{Name: "ca.pem", Content: []byte("one")}, {Name: "ca-bundle.pem", Content: []byte("two")}})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"/dev/nanoclaw/ca.pem one", "/dev/nanoclaw/ca-bundle.pem two"} {
		m := spec.Mounts[1+i]
		content, err := os.ReadFile(m.Source)
		if err != nil || m.Destination+" "+string(content) != want || strings.Join(m.Options, ",") != "bind,ro,nosuid,nodev,noexec" {
			t.Errorf("%+v: %q, %v", m, content, err)
		}
		if rel, err := filepath.Rel(bundle, m.Source); err != nil || strings.HasPrefix(rel, "..") {
			t.Errorf("%s is not in the bundle", m.Source)
		}
	}
}

func TestFilesOfTheHostAreBounded(t *testing.T) {
	for name, files := range map[string][]*agent.File{
		"a path":         {{Name: "../ca.pem"}},
		"a folder":       {{Name: "a/b"}},
		"nothing":        {{Name: ""}},
		"upper case":     {{Name: "CA"}},
		"a dot":          {{Name: ".."}},
		"the agent's":    {{Name: "refusals"}},
		"a long name":    {{Name: strings.Repeat("a", 65)}},
		"a long file":    {{Name: "a", Content: make([]byte, agent.MaxFileBytes+1)}},
		"many":           make([]*agent.File, agent.MaxFiles+1),
		"one name twice": {{Name: "a"}, {Name: "a"}},
	} {
		spec := inMemory()
		err := shareFiles(t.TempDir(), spec, files)
		if err == nil || !errdefs.IsInvalidArgument(err) && name != "one name twice" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := shareFiles(t.TempDir(), &specs.Spec{}, []*agent.File{{Name: "a"}}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("without a /dev in memory: %v", err)
	}
	if err := shareFiles(t.TempDir(), &specs.Spec{}, nil); err != nil {
		t.Errorf("without files: %v", err)
	}
}
