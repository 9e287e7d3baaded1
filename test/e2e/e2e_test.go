// Package e2e runs scripts that read like terminal sessions against the
// embedded engine. Each script states one fact of what a person sees with a
// Docker client; it knows nothing of the shim's or the agent's insides.
//
// The scripts are testdata/feature and testdata/feature-alone, which are run
// with runc as well and compared, and testdata/script and testdata/serial, which
// mean something only in a VM. Those of feature-alone and serial run one at a
// time: they change the engine or stop it. README.md has their commands.
package e2e

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
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

	envRuntime    = "RUNTIME"        // of a compared script's containers
	envTranscript = "E2E_TRANSCRIPT" // the file that outcomes are recorded in, where they are compared
	envTest       = "E2E_TEST"       // the PID of the test
	envRecord     = "E2E_RECORD"     // this command is to be recorded, although the test did not call it itself
	envDiffers    = "E2E_DIFFERS"    // why its outcome differs between runtimes
	envVaries     = "E2E_VARIES"     // why its outcome is another every time
	envSlow       = "E2E_SLOW"       // by how much everything may take longer
	envVerify     = "E2E_VERIFY"     // which of nanoclaw verify's checks are broken: names, or all
)

func TestMain(m *testing.M) {
	flag.Parse()
	// A VM under emulation takes a core while it boots; more at once would only wait for each other.
	if err := flag.Set("test.parallel", "2"); err != nil {
		panic(err)
	}
	testscript.Main(m, map[string]func(){
		"docker":  docker,
		"host":    host,
		"exits":   exits,
		"within":  within,
		"differs": differs,
		"varies":  varies,
		"timeout": timeout,
	})
}

// TestScripts runs what is about VMs alone.
func TestScripts(t *testing.T) {
	enter := engine(t)
	t.Run("parallel", func(t *testing.T) {
		p := params(enter, "", "")
		p.Files = scripts(t, "script")
		testscript.Run(t, p)
	})
	for _, script := range scripts(t, "serial") {
		t.Run("serial", func(t *testing.T) {
			p := params(enter, "", "")
			p.Files = []string{script}
			testscript.Run(t, p)
		})
	}
}

// engine returns the path of test/engine/enter after it has seen a VM run: no
// script means anything if the runtime quietly were another.
func engine(t *testing.T) string {
	t.Helper()
	enter, err := filepath.Abs("../engine/enter")
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("NANOCLAW_E2E") != "1" {
		t.Skip("needs root and a running engine: test/engine/up, then NANOCLAW_E2E=1 go test ./test/e2e")
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

// params are those of a script that is about VMs alone, or, with a runtime, of
// one that is compared and writes its outcomes to transcript.
func params(enter, runtime, transcript string) testscript.Params {
	return testscript.Params{
		Condition: func(name string) (bool, error) {
			if file, ok := strings.CutPrefix(name, "mounts:"); ok {
				known, err := os.ReadFile("/proc/filesystems")
				return slices.Contains(strings.Fields(string(known)), file), err
			}
			if runtime == "" || !slices.Contains(runtimes, name) {
				return false, fmt.Errorf("the condition %q is unknown", name)
			}
			return name == runtime, nil
		},
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
			env.Setenv("E2E_PATIENCE", os.Getenv("E2E_PATIENCE"))
			env.Setenv(envSlow, strconv.Itoa(slow()))
			env.Setenv("KILLS", often("E2E_KILLS", "2"))
			env.Setenv("FILES", often("E2E_FILES", "2000"))
			env.Setenv("NANOCLAW_ENGINE", os.Getenv("NANOCLAW_ENGINE"))
			env.Setenv(envTest, strconv.Itoa(os.Getpid()))
			env.Setenv(envVerify, cmp.Or(os.Getenv(envVerify), "secrets crash"))
			if runtime != "" {
				env.Setenv(envRuntime, runtime)
				env.Setenv(envTranscript, transcript)
			}
			env.Defer(func() { finish(env.T(), enter, label, ids, runtime != "runc") })
			return nil
		},
	}
}

// often is how many times a script does what takes long: as often as the variable
// says, or as few times as show anything.
func often(variable, few string) string {
	if n := os.Getenv(variable); n != "" {
		return n
	}
	return few
}
