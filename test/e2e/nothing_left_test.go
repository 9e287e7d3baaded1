package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nanoclaw/nanoclaw/test/internal/remains"
)

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
		out, err := exec.Command("timeout", strconv.Itoa(120*slow()), enter, "docker", "run", "--rm", "--runtime", "nanoclaw", "-v", "/vol", "busybox", "echo", "run", strconv.Itoa(n)).CombinedOutput()
		if err != nil {
			return fmt.Errorf("run %d: %w: %q", n, err, out)
		}
		if string(out) != want {
			return fmt.Errorf("run %d wrote %q", n, out)
		}
		return nil
	}
	engine := remains.New(enter)
	before, err := engine.AllAfterFirst()
	if err != nil {
		t.Fatal(err)
	}
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
	left, err := remains.Wait(func() ([]string, error) { return engine.Since(before) })
	if err != nil || len(left) > 0 {
		t.Fatalf("left (%v):\n%s", err, strings.Join(left, "\n"))
	}
}
