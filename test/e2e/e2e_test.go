// Package e2e runs scripts that read like terminal sessions against the
// embedded engine. Each script states one fact of what a person sees with a
// Docker client; it knows nothing of the shim's or the agent's insides.
//
// The scripts are testdata/script (side by side) and testdata/serial (one at a
// time: they change the engine's configuration). README.md has their commands.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// Variables by which the commands know where they are.
const (
	envEnter = "E2E_ENTER" // test/engine/enter of this clone
	envLabel = "E2E_LABEL" // the script's containers carry the label e2e=$E2E_LABEL
	envIDs   = "E2E_IDS"   // the folder where ids of the script's containers are noted
)

func TestMain(m *testing.M) {
	flag.Parse()
	// A VM under emulation takes a core while it boots; more at once would only wait for each other.
	if err := flag.Set("test.parallel", "2"); err != nil {
		panic(err)
	}
	testscript.Main(m, map[string]func(){
		"docker": docker,
		"host":   host,
		"exits":  exits,
		"within": within,
		"same":   same,
	})
}

func TestScripts(t *testing.T) {
	enter := engine(t)
	t.Run("parallel", func(t *testing.T) { testscript.Run(t, params("testdata/script", enter)) })
	for _, script := range serial(t) {
		t.Run("serial", func(t *testing.T) {
			p := params("", enter)
			p.Files = []string{script}
			testscript.Run(t, p)
		})
	}
}

// engine returns the path of test/engine/enter after it has seen a VM run: no
// script means anything if the runtime quietly were another.
func engine(t *testing.T) string {
	t.Helper()
	if os.Getenv("NANOCLAW_E2E") != "1" {
		t.Skip("needs root and a running engine: test/engine/up, then NANOCLAW_E2E=1 go test ./test/e2e")
	}
	enter, err := filepath.Abs("../engine/enter")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(enter, "docker", "run", "--rm", "--runtime", "nanoclaw", "busybox", "uname", "-r").CombinedOutput()
	if err != nil {
		t.Fatalf("the engine runs no container in a VM: %v: %s", err, out)
	}
	own, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	if string(out) == string(own) || !strings.Contains(string(out), "nanoclaw") {
		t.Fatalf("the container's kernel is %q, the host's %q: this is no VM of ours", out, own)
	}
	return enter
}

func serial(t *testing.T) []string {
	t.Helper()
	scripts, err := filepath.Glob("testdata/serial/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts in testdata/serial: %v", err)
	}
	return scripts
}

func params(dir, enter string) testscript.Params {
	return testscript.Params{
		Dir: dir,
		Setup: func(env *testscript.Env) error {
			name := filepath.Base(env.WorkDir)
			label := fmt.Sprintf("%s-%d", strings.TrimPrefix(name, "script-"), time.Now().UnixNano())
			ids := filepath.Join(env.WorkDir, ".ids")
			if err := os.Mkdir(ids, 0o700); err != nil {
				return err
			}
			env.Setenv(envEnter, enter)
			env.Setenv(envLabel, label)
			env.Setenv(envIDs, ids)
			env.Setenv("N", label)
			env.Setenv("NANOCLAW_ENGINE", os.Getenv("NANOCLAW_ENGINE"))
			env.Defer(func() { finish(env.T(), enter, label, ids) })
			return nil
		},
	}
}
