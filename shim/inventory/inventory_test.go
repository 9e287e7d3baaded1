package inventory

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nanoclaw/nanoclaw/shim/audit"
	"github.com/nanoclaw/nanoclaw/shim/config"
	"github.com/nanoclaw/nanoclaw/shim/sandbox"
)

func TestList(t *testing.T) {
	cfg := config.Default()
	cfg.RunDir, cfg.Audit.Dir = filepath.Join(t.TempDir(), "run"), filepath.Join(t.TempDir(), "log")
	if all, err := List(cfg); err != nil || len(all) != 0 {
		t.Errorf("%v, %v of a host that ran nothing", all, err)
	}
	began := time.Now().Add(-time.Minute)
	for i, id := range []string{"second", "first"} {
		data, err := json.Marshal(sandbox.Info{ID: id, Cgroup: "/no/such/cgroup", Began: began.Add(time.Duration(-i) * time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(cfg.RunDir, id)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "vm.json"), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Without a log there is still a list.
	all, err := List(cfg)
	if err == nil || len(all) != 2 || all[0].ID != "first" || all[0].Violations != -1 || all[0].MemoryUsed != -1 {
		t.Fatalf("%+v, %v", all, err)
	}
	l := audit.NewLog(audit.Options{Dir: cfg.Audit.Dir, MaxSize: 1 << 20, Keep: 2})
	defer l.Close()
	for range 3 {
		if err := l.Append(audit.NewRecord(time.Now(), audit.Identity{Container: "second"}, audit.Entry{Event: audit.Exec, Decision: audit.Deny})); err != nil {
			t.Fatal(err)
		}
	}
	all, err = List(cfg)
	if err != nil || all[0].Violations != 0 || all[1].Violations != 3 {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestWrite(t *testing.T) {
	now := time.Now()
	var b strings.Builder
	if err := Write(&b, []Container{
		{Info: sandbox.Info{ID: "0123456789abcdef", Mode: "enforce", Hypervisor: "cloud-hypervisor", Isolates: true, CPUs: 4, Memory: 2 << 30, Began: now.Add(-90 * time.Second)}, MemoryUsed: 300 << 20},
		{Info: sandbox.Info{ID: "b", Agent: "sales", Mode: "audit", Hypervisor: "qemu (emulation)", CPUs: 1, Memory: 32 << 30, Began: now}, MemoryUsed: -1, Violations: -1},
		{Info: sandbox.Info{ID: "c", Mode: "enforce", Sandbox: "0123456789abcdef", Began: now}, MemoryUsed: 300 << 20},
	}, now); err != nil {
		t.Fatal(err)
	}
	want := `CONTAINER      AGENT   MODE      VM                                      MEMORY               UP      VIOLATIONS
0123456789ab   -       enforce   cloud-hypervisor, 4 CPU                 300 MiB of 2.0 GiB   1m30s   0
b              sales   audit     qemu (emulation), no isolation, 1 CPU   ? of 32 GiB          0s      ?
c              -       enforce   that of 0123456789ab                    -                    0s      0
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}
