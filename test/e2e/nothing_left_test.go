package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// everything prints one line for each thing of the engine's that a container
// could leave behind: processes, mounts, network namespaces, sockets, taps, files
// in the run directory, bundles, cgroups. It names no PID: those change.
const everything = `
for f in /proc/[0-9]*/cmdline; do
	args=$(tr '\0' ' ' <$f 2>/dev/null)
	case $args in
	*containerd-shim*|*qemu-system*|*cloud-hypervisor*|*virtiofsd*|*vhost-device*|*docker-proxy*|nanoclaw-hide*) echo "process $args" ;;
	esac
done
cut -d' ' -f5 /proc/self/mountinfo | grep -v '^/proc/' | sed 's/^/mount /'
for f in /proc/[0-9]*/ns/net; do readlink $f; done 2>/dev/null | sort -u | sed 's/^/namespace /'
grep -ao '/run/nanoclaw/.*' /proc/net/unix | sed 's/^/socket /'
ls /sys/class/net | sed 's/^/interface /'
find /run/nanoclaw /run/docker/netns /run/containerd/io.containerd.runtime.v2.task -mindepth 1 2>/dev/null | sed 's/^/file /'
find /sys/fs/cgroup -type d -path "*/$(hostname)/*" | sed 's/^/cgroup /'
true`

func census(t *testing.T, enter string) []string {
	t.Helper()
	out, err := exec.Command(enter, "sh", "-c", everything).Output()
	if err != nil {
		t.Fatalf("list what there is: %v", err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(lines)
	return lines
}

// TestNothingIsLeft runs containers in a row, and four at once, and compares what
// there is of anything before and after. E2E_RUNS says how many in a row.
func TestNothingIsLeft(t *testing.T) {
	enter := engine(t)
	runs := 6
	if n, err := strconv.Atoi(os.Getenv("E2E_RUNS")); err == nil {
		runs = n
	}
	run := func(n int) error {
		want := fmt.Sprintf("run %d\n", n)
		out, err := exec.Command("timeout", "120", enter, "docker", "run", "--rm", "--runtime", "nanoclaw", "-v", "/vol", "busybox", "echo", "run", strconv.Itoa(n)).CombinedOutput()
		if err != nil {
			return fmt.Errorf("run %d: %w: %q", n, err, out)
		}
		if string(out) != want {
			return fmt.Errorf("run %d wrote %q", n, out)
		}
		return nil
	}
	before := census(t, enter)
	began := time.Now()
	for n := range runs {
		if err := run(n); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d in a row took %s", runs, time.Since(began).Round(time.Second))
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			if err := run(n); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for limit := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		after := census(t, enter)
		if slices.Equal(before, after) {
			return
		}
		if time.Now().After(limit) {
			for _, line := range after {
				if !slices.Contains(before, line) {
					t.Errorf("left: %s", line)
				}
			}
			t.Fatalf("%d things before, %d after", len(before), len(after))
		}
	}
}
