package verify

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/shim/config"
)

func itoa(n uintptr) string { return strconv.Itoa(int(n)) }

func TestReport(t *testing.T) {
	for name, test := range map[string]struct {
		brk         Check
		fail        []Check
		ok, noticed bool
		says        string
	}{
		"good":           {ok: true, says: "All checks passed"},
		"bad":            {fail: []Check{Mounts}, says: "NOT ISOLATED"},
		"broken":         {brk: Files, fail: []Check{Files}, noticed: true, says: "that check alone failed"},
		"unnoticed":      {brk: Files, ok: true, says: "DO NOT RELY"},
		"another":        {brk: Files, fail: []Check{Crash}, says: "DO NOT RELY"},
		"not that alone": {brk: Files, fail: []Check{Files, Crash}, says: "DO NOT RELY"},
	} {
		var f findings
		for _, c := range test.fail {
			f.unjudged(c, errors.New("a\x1b[2Jb"))
			f.unjudged(c, errors.New("a\x1b[2Jb"))
			f.unjudged(c, nil)
		}
		r := f.report(Options{Break: test.brk, Image: "i"})
		r.Hypervisor, r.Isolates = "qemu", true
		if r.OK != test.ok || r.Noticed != test.noticed || len(r.Results) != len(Checks) {
			t.Errorf("%s: %+v", name, r)
		}
		var b strings.Builder
		if err := r.Print(&b); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), test.says) || strings.Contains(b.String(), "\x1b") || strings.Count(b.String(), "could not be judged") != len(test.fail) {
			t.Errorf("%s:\n%s", name, b.String())
		}
	}
	emulated := Report{OK: true, Hypervisor: "qemu (emulation)"}
	if !strings.Contains(emulated.conclusion(), "NOTHING IS ISOLATED") {
		t.Errorf("emulation is told as isolation: %s", emulated.conclusion())
	}
}

func TestParseCheck(t *testing.T) {
	for _, c := range Checks {
		if got, err := ParseCheck(string(c)); err != nil || got != c || claims[c] == "" {
			t.Errorf("%s: %v, %v", c, got, err)
		}
	}
	if _, err := ParseCheck("file"); err == nil {
		t.Error("there is no check of this name")
	}
}

// The scratch run has a policy, a run directory and a log of its own, and all
// else from the host.
func TestConfigure(t *testing.T) {
	dir := t.TempDir()
	s := &scratch{dir: filepath.Join(dir, "scratch"), containerd: "/run/c.sock"}
	s.host = "unix://" + s.path("docker.sock")
	host := filepath.Join(dir, "config.yaml")
	put(t, host, "allow_emulation: true\nkernel: /k\nboot_timeout: 90s\ndefault_memory: 3g\nrun_dir: "+dir+"\naudit: {dir: /var/log/x, keep: 3}\npolicy: /etc/p.yaml\n")
	put(t, filepath.Join(dir, "kvm-verdict-1.json"), "{}")
	put(t, s.path("vm", "x"), "")
	if len(dir) > 40 {
		t.Skip("the test's folder is too long for a run directory")
	}
	if err := s.configure(Options{Config: host, Shim: "/shim"}); err != nil {
		t.Fatal(err)
	}
	want, err := config.Load(host)
	if err != nil {
		t.Fatal(err)
	}
	want.RunDir, want.Policy, want.Audit.Dir = s.path("vm"), s.path("policy.yaml"), s.path("log")
	data, err := os.ReadFile(s.path("config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	got := config.Default()
	// Which file it was is not in the file.
	want.File = got.File
	if err := yaml.UnmarshalWithOptions(data, &got, yaml.Strict()); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if _, err := os.Stat(s.path("vm", "kvm-verdict-1.json")); err != nil {
		t.Errorf("the verdict was not passed on: %v", err)
	}
	engine, err := os.ReadFile(s.path("daemon.json"))
	for _, part := range []string{`"/shim"`, s.path("config.yaml"), s.path("docker.sock"), `"iptables": false`} {
		if err != nil || !strings.Contains(string(engine), part) {
			t.Errorf("%v: %s is not in %s", err, part, engine)
		}
	}
}

// Nothing but a folder of ours is ever claimed, and so removed.
func TestClaim(t *testing.T) {
	for _, dir := range []string{"/", "/tmp", "relative/" + scratchName, "/" + strings.Repeat("x", 40) + "/" + scratchName} {
		s := &scratch{dir: dir}
		if err := s.claim(); err == nil {
			t.Errorf("%s was claimed", dir)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("the rest takes root")
	}
	base, err := os.MkdirTemp("", "v")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	s := &scratch{dir: filepath.Join(base, scratchName)}
	put(t, s.path("old"), "left by a run that was killed")
	if err := os.Chmod(s.dir, 0o777); err != nil { //nolint:gosec // that is what is tried
		t.Fatal(err)
	}
	if err := s.claim(); err == nil {
		t.Error("a folder that others can write was claimed")
	}
	if err := errors.Join(s.undo.Run(), os.Chmod(s.dir, 0o700)); err != nil { //nolint:gosec // a folder
		t.Fatal(err)
	}
	if err := s.claim(); err != nil {
		t.Fatal(err)
	}
	// As if it had been killed.
	killed := s.files
	again := &scratch{dir: s.dir}
	if err := again.makeFiles(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(killed); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a killed run left is there: %v", err)
	}
	if err := again.undo.Run(); err != nil {
		t.Error(err)
	}
	second := &scratch{dir: s.dir}
	if err := second.claim(); err == nil {
		t.Error("two runs at once")
	}
	if err := s.undo.Run(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(base); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// The policy reserves the tool, and broken it does not.
func TestPolicyFile(t *testing.T) {
	for reserved, denied := range map[string]bool{"exec: [" + tool + "]": true, "endpoints: []": false} {
		f, err := annotations.ParseFile("p", []byte(strings.Replace(policyFile, "%s", reserved, 1)))
		if err != nil {
			t.Fatal(err)
		}
		for agent, want := range map[string]bool{"granted": false, "other": denied} {
			p, err := annotations.ForAgent(f, agent)
			if err != nil {
				t.Fatal(err)
			}
			if got := len(p.Exec.Deny) > 0; got != want {
				t.Errorf("%s, %s: %+v", reserved, agent, p.Exec)
			}
		}
	}
}

func TestBounded(t *testing.T) {
	var b bounded
	for range 3 {
		if n, err := b.Write(make([]byte, maxOutput/2+1)); n != maxOutput/2+1 || err != nil {
			t.Fatal(n, err)
		}
	}
	if len(b.String()) != maxOutput {
		t.Errorf("%d bytes were kept", len(b.String()))
	}
	if got := tail(strings.Repeat("x", 10_000)); len(got) > 2100 {
		t.Errorf("%d bytes", len(got))
	}
	if one, two := newToken("A"), newToken("A"); one == two || describe(newToken("HOST")) == describe(newToken("SECRET")) {
		t.Error("tokens are alike")
	}
}
