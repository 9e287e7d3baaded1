package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nanoclaw/nanoclaw/test/internal/remains"
	"github.com/nanoclaw/nanoclaw/test/internal/shimlog"
)

// What a container may cost in calls into its guest, the power-off included.
// Each is a wait for the guest, so more of them is a slower container.
const (
	maxCallsPerRun  = 6
	maxCallsPerExec = 2
)

// TestGuestCalls keeps the number of calls into the guest. It reads the shim's
// own count, which no Docker client shows.
func TestGuestCalls(t *testing.T) {
	enter := engine(t)
	name := os.Getenv("NANOCLAW_ENGINE")
	if name == "" {
		name = "nanoclaw-engine"
	}
	log, err := shimlog.Open(filepath.Join("/run", name, "containerd.log"))
	if err != nil {
		t.Fatal(err)
	}
	docker := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(enter, append([]string{"docker"}, args...)...)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("docker %q: %v: %s", args, err, stderr.String())
		}
		return strings.TrimSpace(string(out))
	}
	calls := func(container string) shimlog.Entry {
		t.Helper()
		e, err := log.Wait(container, shimlog.Closed, remains.Patience)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}

	cid := filepath.Join(t.TempDir(), "cid")
	docker("run", "--rm", "--cidfile", cid, "--runtime", "nanoclaw", "busybox", "true")
	id, err := os.ReadFile(cid)
	if err != nil {
		t.Fatal(err)
	}
	short := calls(string(id))
	run := count(t, short["guest_calls"])
	t.Logf("docker run --rm … true: %d calls, %s", run, short["guest_methods"])
	if run < 1 || run > maxCallsPerRun {
		t.Errorf("docker run --rm … true takes %d calls into the guest, not 1 to %d: %s", run, maxCallsPerRun, short["guest_methods"])
	}

	const execs = 3
	sleeper := docker("run", "-d", "--runtime", "nanoclaw", "busybox", "sleep", "1000")
	t.Cleanup(func() { _ = exec.Command(enter, "docker", "rm", "-f", sleeper).Run() })
	for range execs {
		docker("exec", sleeper, "true")
	}
	docker("rm", "-f", sleeper)
	long := calls(sleeper)
	// The container itself takes what the first one took, and its removal kills it.
	n := count(t, long["guest_calls"]) - run
	for word := range strings.FieldsSeq(long["guest_methods"]) {
		if kills, ok := strings.CutPrefix(word, "Kill="); ok {
			n -= count(t, kills)
		}
	}
	t.Logf("%d times docker exec … true: %d calls; in all %s", execs, n, long["guest_methods"])
	if n < execs || n > maxCallsPerExec*execs {
		t.Errorf("%d times docker exec … true took %d calls into the guest, not 1 to %d each; in all %s", execs, n, maxCallsPerExec, long["guest_methods"])
	}
}

func count(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("the shim's count of calls is %q", s)
	}
	return n
}
