package task

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/shim/config"
)

// compiled compiles the policy of a container on a host with this policy file.
func compiled(t *testing.T, file string, given map[string]string) (*annotations.Policy, error) {
	t.Helper()
	cfg := config.Default()
	cfg.Policy = filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(cfg.Policy, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	spec := &specs.Spec{Annotations: given, Linux: &specs.Linux{}}
	for _, kind := range []specs.LinuxNamespaceType{specs.MountNamespace, specs.NetworkNamespace, specs.UTSNamespace, specs.PIDNamespace, specs.IPCNamespace} {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind})
	}
	return compile(cfg, "c", nil, spec)
}

func TestCompileWithTheHostsFile(t *testing.T) {
	const file = "agents:\n  - name: reader\n    mounts: {readonly: [\"*\"]}\n"
	p, err := compiled(t, file, map[string]string{annotations.KeyAgent: "reader"})
	if err != nil {
		t.Fatal(err)
	}
	if p.Agent != "reader" || !p.ReadOnly("/data") {
		t.Errorf("%+v", p)
	}
	for name, c := range map[string]struct {
		file  string
		given map[string]string
		want  string
	}{
		"an unknown agent": {file, map[string]string{annotations.KeyAgent: "reder"}, "nearest is reader"},
		"a broken file":    {"agents:\n  - nam: x\n", nil, "policy.yaml:2"},
	} {
		_, err := compiled(t, c.file, c.given)
		var refusal *annotations.Refusal
		if !errors.As(err, &refusal) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want one line with %q", name, err, c.want)
		}
	}
}

// The policy file itself cannot be mounted, wherever it is.
func TestThePolicyFileIsPrivate(t *testing.T) {
	p, err := compiled(t, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	var own string
	for _, place := range p.Mounts.Refuse {
		if strings.HasSuffix(place.Path, "policy.yaml") {
			own = place.Path
		}
	}
	m := annotations.Mount{Destination: "/w", Source: annotations.Source{Asked: own, Path: filepath.Dir(own), Kind: annotations.KindDir}}
	if own == "" || p.CheckMount(m) == nil {
		t.Errorf("the folder of the policy file %q can be mounted", own)
	}
}

func TestUpdateStaysBelowTheCeiling(t *testing.T) {
	p, err := compiled(t, "ceiling: {limits: {pids: 10}}\n", nil)
	if err != nil {
		t.Fatal(err)
	}
	update := func(pids int64) ([]byte, error) {
		value, err := json.Marshal(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &pids}})
		if err != nil {
			t.Fatal(err)
		}
		r, err := narrowed(p, &anypb.Any{Value: value})
		if err != nil {
			return nil, err
		}
		return json.Marshal(r)
	}
	if got, err := update(7); err != nil || !strings.Contains(string(got), `"limit":7`) {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := update(11); err == nil || !strings.Contains(err.Error(), "ceiling of this host is 10") {
		t.Errorf("more than the ceiling: %v", err)
	}
	if got, err := update(-1); err != nil || !strings.Contains(string(got), `"limit":10`) {
		t.Errorf("no limit became %s, %v", got, err)
	}
}
