package verify

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nanoclaw/nanoclaw/shim/audit"
)

// panicKernel crashes the guest's kernel, from a container with every capability:
// by what a kernel has for it, or by running out of memory where that is to be a
// panic.
const panicKernel = `
[ -e /proc/sysrq-trigger ] && echo c >/proc/sysrq-trigger
echo 2 >/proc/sys/vm/panic_on_oom
tail /dev/zero`

// crash is one that is made.
type crash struct {
	what string
	*container
	strike func(context.Context) error
	// recorded is what the audit log must have of it; empty: nothing special.
	recorded string
}

// checkCrashes crashes B's VMM, and the kernel and the init of two containers
// more.
func (r *run) checkCrashes(ctx context.Context) error {
	kernel, err := r.make("kernel", "", "sleep 1000", "--memory", "64m")
	if err != nil {
		return err
	}
	initCommand := "sleep 1000"
	if r.brk == Crash {
		initCommand = "cat /nanoclaw-verify-credentials; sleep 1000"
	}
	first, err := r.make("init", "", initCommand)
	if err != nil {
		return err
	}
	if r.brk == Crash {
		// A credential where what crashes can show it.
		first.flags = append(first.flags, "--volume", filepath.Join(r.files, "host", "credentials")+":/nanoclaw-verify-credentials:ro")
	}
	if err := r.startAll(ctx, kernel, first); err != nil {
		return err
	}
	crashes := []crash{
		{"its VMM", r.b, func(ctx context.Context) error {
			vmm, err := r.vmm(ctx, r.b)
			if err != nil {
				return err
			}
			return syscall.Kill(vmm.pid, syscall.SIGKILL)
		}, "vmm-died"},
		{"its kernel", kernel, func(ctx context.Context) error {
			// It ends with the VM, in whatever way; that it crashed, the log tells.
			_, _, _ = r.output(ctx, "exec", kernel.name, "sh", "-c", panicKernel)
			return nil
		}, "guest-panicked"},
		{"its init", first, func(ctx context.Context) error {
			if r.brk == Crash {
				if err := r.printed(ctx, first, r.canary); err != nil {
					return err
				}
			}
			_, err := r.must(ctx, "kill", "--signal", "KILL", first.name)
			return err
		}, ""},
	}
	var wg sync.WaitGroup
	for _, c := range crashes {
		wg.Go(func() { r.crash(ctx, c) })
	}
	wg.Wait()
	return nil
}

// printed waits until a container has printed a token.
func (r *run) printed(ctx context.Context, c *container, t token) error {
	for limit := time.Now().Add(engineStart); ; time.Sleep(100 * time.Millisecond) {
		logs, err := r.attempt(ctx, "logs", c.name)
		if err != nil || has(logs, t) {
			return err
		}
		if time.Now().After(limit) {
			return fmt.Errorf("it has not printed %s within %s", describe(t), engineStart)
		}
	}
}

// crash makes one crash and looks at all that shows.
func (r *run) crash(ctx context.Context, c crash) {
	fail := func(err error) {
		if err != nil {
			r.unjudged(Crash, fmt.Errorf("the crash of %s: %w", c.what, err))
		}
	}
	tokens := []token{r.canary, c.secret}
	r.environments(ctx, c.container)
	console, err := os.Open(filepath.Join(r.vmDir(c.id), "console.log"))
	if err != nil {
		fail(err)
		return
	}
	defer func() { _ = console.Close() }() // it was read from only
	layer, err := r.must(ctx, "inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", c.name)
	fail(err)
	if err := c.strike(ctx); err != nil {
		fail(err)
		return
	}
	if err := r.wait(ctx, c.container); err != nil {
		fail(err)
		return
	}
	inspected, _, err := r.output(ctx, "inspect", c.name)
	fail(err)
	logs, err := r.attempt(ctx, "logs", c.name)
	fail(err)
	for place, text := range map[string]string{
		"what docker inspect shows": inspected, "docker's log of the container": logs, "what docker said": r.said.String(),
	} {
		r.shown(c, place, strings.NewReader(text), tokens)
	}
	// Its name is gone with the VM; what was written to it is here.
	r.shown(c, "the guest's console", console, tokens)
	r.searchHost(Crash, c.container, []string{layer}, tokens...)
	if c.recorded != "" {
		fail(r.recorded(c))
	}
	r.remove(ctx, Crash, c.container)
}

func (r *run) shown(c crash, place string, in io.Reader, tokens []token) {
	found, err := inStream(place, in, tokens)
	r.unjudged(Crash, err)
	for _, w := range found {
		r.add(Crash, "after the crash of %s %s is in %s", c.what, describe(w.token), place)
	}
}

// recorded sees in the audit log that it was this crash.
func (r *run) recorded(c crash) error {
	var actions []string
	err := audit.Each(r.config.Audit.Dir, func(rec *audit.Record) error {
		if rec.Container == c.id && rec.Event == audit.Boundary && rec.Object != nil {
			actions = append(actions, rec.Object.Action)
		}
		return nil
	})
	if err == nil && !strings.Contains(strings.Join(actions, " "), c.recorded) {
		err = fmt.Errorf("the audit log has not %q but %q of it", c.recorded, actions)
	}
	return err
}

// environments looks at the processes of a VM: a credential in the environment of
// one is in its dump, and a dump of one has what it holds of the guest.
func (r *run) environments(ctx context.Context, c *container) {
	all, err := processes(filepath.Base(r.vmDir(c.id)))
	r.unjudged(Crash, err)
	vmm, err := r.vmm(ctx, c)
	r.unjudged(Crash, err)
	if err == nil {
		all = append(all, vmm)
	}
	for _, p := range all {
		found, err := inFile(p.file("environ"), []token{r.canary, c.secret})
		r.unjudged(Crash, err)
		for _, w := range found {
			r.add(Crash, "%s is in the environment of %s", describe(w.token), p)
		}
		limits, err := os.ReadFile(p.file("limits"))
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(limits)) {
			if rest, ok := strings.CutPrefix(line, "Max core file size"); ok && !strings.HasPrefix(strings.TrimSpace(rest), "0 ") {
				r.add(Crash, "%s may leave a core dump, with what it holds of the guest", p)
			}
		}
	}
}
