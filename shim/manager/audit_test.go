package manager

import (
	"path/filepath"
	"testing"

	"github.com/nanoclaw/nanoclaw/shim/audit"
	"github.com/nanoclaw/nanoclaw/shim/config"
	"github.com/nanoclaw/nanoclaw/shim/sandbox"
)

func TestRecordDeath(t *testing.T) {
	cfg := config.Default().Audit
	cfg.Dir = filepath.Join(t.TempDir(), "log")
	if err := recordDeath(cfg, &sandbox.Info{ID: "c1", Agent: "sales\n", Policy: "d1"}); err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := audit.Each(cfg.Dir, func(r *audit.Record) error {
		if r.Container == "c1" && r.Agent == `sales\x0a` && r.Policy == "d1" {
			got = append(got, string(r.Event)+" "+r.Object.Action)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0] != "boundary shim-died" || got[1] != "lifecycle delete" {
		t.Errorf("%q", got)
	}
}
