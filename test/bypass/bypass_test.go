// Package bypass tries to get around a policy, in every way that is known to
// us, and sees that none succeeds; and that each succeeds where its control is
// switched off, since an attempt that always fails proves nothing.
//
// The attempts are in package attempts, each with the property that it must
// not break. Here each gets a container of its own in a VM of our kernel, with
// root, every capability and no seccomp filter: only the gate is in its way.
// What depends on Docker, the share or the host is tried by the scripts in
// test/e2e.
package bypass

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/guestagent/execgate"
	"github.com/nanoclaw/nanoclaw/shim/hidefs"
	"github.com/nanoclaw/nanoclaw/test/bypass/attempts"
	"github.com/nanoclaw/nanoclaw/test/bypass/attempts/early"
	"github.com/nanoclaw/nanoclaw/test/inguest"
)

// attemptVariable tells this program that it is the one that attempts.
const attemptVariable = early.Variable

func TestMain(m *testing.M) {
	if root := os.Getenv(boxVariable); root != "" {
		fmt.Println("make the container:", becomeBox(root))
		os.Exit(1)
	}
	// The kernel starts a helper with an environment of its own.
	if os.Getenv(attemptVariable) != "" || path.Base(os.Args[0]) == path.Base(attempts.Self) {
		attempts.Main(os.Args)
	}
	if hidefs.IsServer(os.Args) {
		hidefs.Main()
	}
	// What is composed on the host is composed where the host does not see it.
	if os.Getuid() == 0 && !inguest.Inside() && os.Getenv(privateVariable) == "" {
		os.Exit(inPrivate())
	}
	inguest.Main(m)
}

// privateVariable tells this program that it has mounts of its own.
const privateVariable = "NANOCLAW_BYPASS_PRIVATE"

// inPrivate runs this program once more, with mounts of its own.
func inPrivate() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), privateVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// TestInVM boots the VM in which the attempts are made.
func TestInVM(t *testing.T) {
	if inguest.Inside() {
		t.Skip("this is the VM")
	}
	n := 0
	for _, a := range attempts.All() {
		if !a.Allowed {
			n++
		}
	}
	if n < 60 {
		t.Errorf("there are %d attempts", n)
	}
	pattern := os.Getenv("NANOCLAW_BYPASS")
	if pattern == "" {
		pattern = "TestGuest"
	}
	inguest.Run(t, pattern, inguest.Options{})
}

func rules() []execgate.Rule {
	return []execgate.Rule{
		{Action: execgate.Deny, Path: attempts.Denied},
		{Action: execgate.Hide, Path: attempts.Hidden},
		{Action: execgate.Ask, Path: attempts.Asked},
		{Action: execgate.ReadOnly, Path: attempts.Readonly},
		{Action: execgate.Deny, Path: attempts.Args, Argv: []string{attempts.Push}},
		{Action: execgate.Deny, Path: attempts.Args, Argv: []string{attempts.First, attempts.Second}},
	}
}

// audited are the rules, as they are where they only record.
func audited() []execgate.Rule {
	list := rules()
	for i := range list {
		list[i].Would = true
	}
	return append(list, execgate.Rule{Action: execgate.InList, Path: attempts.Self})
}

func policyOf(p attempts.Policy) *execgate.Policy {
	switch p {
	case attempts.Any, attempts.Beside:
		return &execgate.Policy{Rules: rules()}
	case attempts.Mounts:
		return &execgate.Policy{Rules: rules(), Mounts: true, UserNamespaces: true}
	case attempts.Traces:
		return &execgate.Policy{Rules: rules(), Ptrace: true}
	case attempts.Audit:
		return &execgate.Policy{Rules: audited(), Lists: []execgate.Reason{{Rule: "list", Would: true}}}
	case attempts.FromImage:
		return &execgate.Policy{Image: &execgate.Reason{}}
	case attempts.Listed:
		return &execgate.Policy{Image: &execgate.Reason{}, Lists: []execgate.Reason{{}}, Rules: []execgate.Rule{
			{Action: execgate.InList, Path: attempts.Self}, {Action: execgate.InList, Path: attempts.Readonly},
		}}
	}
	panic("no policy " + p)
}

// outcome is what became of an attempt, with the gate and without.
type outcome struct {
	with, without string
	// decisions are what the gate has told of it.
	decisions []string
	err       error
}

func TestGuestAttempts(t *testing.T) {
	if !inguest.Inside() {
		t.Skip("TestInVM runs it")
	}
	for _, policy := range []attempts.Policy{
		attempts.Any, attempts.Mounts, attempts.Traces, attempts.Beside, attempts.FromImage, attempts.Listed, attempts.Audit,
	} {
		t.Run(string(policy), func(t *testing.T) { tryAll(t, policy) })
	}
}

func tryAll(t *testing.T, policy attempts.Policy) {
	var list []attempts.Attempt
	for _, a := range attempts.All() {
		if a.Policy == policy && wanted(t, a.Name) {
			list = append(list, a)
		}
	}
	outcomes := make(map[string]*outcome)
	p := policyOf(policy)
	// Files are the image's up to now, whenever this is asked.
	p.ImageTime = time.Now().Add(100 * time.Millisecond)
	if err := prepare(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	gate, err := execgate.Load(p, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the gate was loaded in %v", time.Since(began).Round(time.Millisecond))
	for _, a := range list {
		o := &outcome{}
		outcomes[a.Name] = o
		armed := gate
		if policy == attempts.Beside {
			armed = nil
		}
		o.with, o.err = try(a.Name, armed, p)
		o.decisions = decisions(t, gate)
	}
	// What the gate does for the whole of the VM is over with it.
	if err := gate.Close(); err != nil {
		t.Error(err)
	}
	for _, a := range list {
		if o := outcomes[a.Name]; o.err == nil && !a.Kernel && !a.Allowed {
			o.without, o.err = try(a.Name, nil, nil)
		}
	}
	for _, a := range list {
		t.Run(a.Name, func(t *testing.T) { check(t, a, outcomes[a.Name]) })
	}
}

func decisions(t *testing.T, gate *execgate.Gate) []string {
	t.Helper()
	gate.Settle()
	list, lost, err := gate.Decisions(t.Context(), true)
	if err != nil {
		t.Error(err)
	}
	var said []string
	if lost > 0 {
		// An attempt that races makes more of them than there is room for.
		said = append(said, fmt.Sprintf("%d lost", lost))
	}
	for _, d := range list {
		word := d.GetDecision()
		if d.GetWould() {
			word = "would " + word
		}
		said = append(said, fmt.Sprintf("%s %s %.60s %.60q", word, d.GetKind(), d.GetPath(), d.GetArgv()))
	}
	return said[:min(len(said), 3)]
}

// wanted reports whether -run asks for the attempt. Attempts are made before the
// parts of the test that tell of them.
func wanted(t *testing.T, name string) bool {
	t.Helper()
	parts := strings.SplitN(flag.Lookup("test.run").Value.String(), "/", 3)
	if len(parts) < 3 {
		return true
	}
	ok, err := regexp.MatchString(parts[2], name)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

func try(name string, gate *execgate.Gate, p *execgate.Policy) (_ string, err error) {
	b, err := newBox(name)
	if err != nil {
		return "", err
	}
	if p != nil {
		p.ImageTime = time.Now()
	}
	out, err := b.run(name, gate)
	if cerr := b.close(); err == nil {
		err = cerr
	}
	return out, err
}

func check(t *testing.T, a attempts.Attempt, o *outcome) {
	if o.err != nil {
		t.Fatal(o.err)
	}
	if a.Allowed {
		if !strings.Contains(o.with, attempts.Succeeded) {
			t.Errorf("%s, but this does not: %q", a.Property, o.with)
		}
		if recorded := strings.Contains(strings.Join(o.decisions, " "), "would deny"); recorded != (a.Policy == attempts.Audit) {
			t.Errorf("on record: %q", o.decisions)
		}
		return
	}
	t.Logf("stopped: %s; on record: %q", strings.TrimSpace(o.with), o.decisions)
	if strings.Contains(o.with, attempts.Succeeded) || !strings.Contains(o.with, attempts.Stopped) {
		t.Errorf("not held: %s; it printed %q", a.Property, o.with)
	}
	if !a.Kernel && !strings.Contains(o.without, attempts.Succeeded) {
		t.Errorf("it fails without the gate as well, and so proves nothing: %q", o.without)
	}
}
