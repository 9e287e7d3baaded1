package preflight

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/cli/doctor"
	"github.com/nanoclaw/nanoclaw/cli/signoff"
	"github.com/nanoclaw/nanoclaw/shim/audit"
	"github.com/nanoclaw/nanoclaw/shim/config"
	"github.com/nanoclaw/nanoclaw/shim/sandbox"
)

// good is what doctor says of a host as it should be.
func good() doctor.Report {
	return doctor.Report{Ready: true, Hypervisor: "qemu", Isolation: doctor.Hardware, Sections: []doctor.Section{
		{Name: doctor.SectionHypervisor, Items: []doctor.Item{{Name: "KVM", Status: doctor.OK}, {Name: "other", Status: doctor.Unused}}},
		{Name: doctor.SectionDocker, Items: []doctor.Item{{Name: doctor.ItemDaemon, Status: doctor.OK, Found: "it knows the runtime"}}},
	}}
}

func TestEngine(t *testing.T) {
	if l := engine(good()); !l.OK {
		t.Errorf("%+v", l)
	}
	for _, status := range []doctor.Status{doctor.Warning, doctor.Problem} {
		bad := good()
		bad.Sections[1].Items[0].Status = status
		if l := engine(bad); l.OK {
			t.Errorf("%s: %+v", status, l)
		}
		// It is a line of its own.
		if l := installed(bad, false); !l.OK {
			t.Errorf("%s: %+v", status, l)
		}
	}
	if l := engine(doctor.Report{}); l.OK {
		t.Errorf("%+v of a Docker that was not asked", l)
	}
}

func TestInstalled(t *testing.T) {
	if l := installed(good(), false); !l.OK {
		t.Errorf("%+v", l)
	}
	emulated := good()
	emulated.Isolation = doctor.Emulation
	emulated.Sections[0].Items[0].Status = doctor.Warning
	if l := installed(emulated, false); l.OK {
		t.Errorf("emulation passes: %+v", l)
	}
	if l := installed(emulated, true); !l.OK {
		t.Errorf("emulation that was accepted does not pass: %+v", l)
	}
	broken := good()
	broken.Sections[0].Items[1].Status = doctor.Problem
	if l := installed(broken, true); l.OK {
		t.Errorf("a problem passes: %+v", l)
	}
}

// host is a configuration whose parts are in folders of the test's.
func host(t *testing.T, policy string) config.Config {
	t.Helper()
	cfg := config.Default()
	dir := t.TempDir()
	cfg.RunDir, cfg.Audit.Dir, cfg.Policy = filepath.Join(dir, "run"), filepath.Join(dir, "log"), filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(cfg.Policy, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func load(t *testing.T, cfg config.Config) *annotations.File {
	t.Helper()
	f, err := config.LoadPolicy(cfg.Policy)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestPermissions(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root signs off")
	}
	cfg := host(t, "version: 1\n")
	if l := permissions(cfg, load(t, cfg), nil); l.OK {
		t.Errorf("nobody has signed: %+v", l)
	}
	sign := func(policy, digest string) {
		if err := signoff.Write(cfg.SignOff(), signoff.Record{Policy: policy, Digest: digest, By: "Ada", At: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	sign(cfg.Policy, load(t, cfg).Digest())
	if l := permissions(cfg, load(t, cfg), nil); !l.OK || !strings.Contains(l.Found, "Ada") {
		t.Errorf("%+v", l)
	}
	if l := permissions(cfg, nil, nil); l.OK {
		t.Errorf("the file is gone: %+v", l)
	}
	if l := permissions(cfg, nil, errors.New("broken")); l.OK {
		t.Errorf("it cannot be used: %+v", l)
	}
	if err := os.WriteFile(cfg.Policy, []byte("version: 1\n# a comment\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l := permissions(cfg, load(t, cfg), nil); l.OK || !strings.Contains(l.Problems[0].What, "was changed after Ada") {
		t.Errorf("it was changed: %+v", l)
	}
	secret := filepath.Join(filepath.Dir(cfg.Policy), "secret")
	policy := "version: 1\ntools: {crm: {endpoints: [{host: crm.example.com, port: 443}], secrets: [{env: TOKEN, source: \"file:" + secret + "\", hosts: [crm.example.com]}]}}\n"
	if err := os.WriteFile(cfg.Policy, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	sign(cfg.Policy, load(t, cfg).Digest())
	if l := permissions(cfg, load(t, cfg), nil); l.OK || !strings.Contains(l.Problems[0].What, "the tool crm") || !strings.Contains(l.Problems[0].What, "is missing") {
		t.Errorf("a secret is missing: %+v", l)
	}
	if err := os.WriteFile(secret, []byte("12345678\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l := permissions(cfg, load(t, cfg), nil); !l.OK {
		t.Errorf("the secret is there: %+v", l)
	}
	sign("/other.yaml", load(t, cfg).Digest())
	if l := permissions(cfg, load(t, cfg), nil); l.OK {
		t.Errorf("it is of another file: %+v", l)
	}
	sign(cfg.Policy, signoff.Baseline)
	if l := permissions(cfg, nil, nil); !l.OK {
		t.Errorf("that there is no policy was signed: %+v", l)
	}
}

func TestAudited(t *testing.T) {
	cfg := host(t, "")
	for range 2 {
		if l := audited(cfg); !l.OK {
			t.Fatalf("%+v", l)
		}
	}
	went := cfg
	went.Audit.OnFull = config.OnFullContinue
	if l := audited(went); l.OK {
		t.Errorf("what is not recorded goes on: %+v", l)
	}
	// A line is changed.
	file := filepath.Join(cfg.Audit.Dir, "audit.jsonl")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(data), "nanoclaw preflight", "nanoclaw preflighT", 1)
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil || changed == string(data) {
		t.Fatal(err, "nothing was changed")
	}
	if l := audited(cfg); l.OK {
		t.Errorf("it was tampered with: %+v", l)
	}
	none := cfg
	none.Audit.Dir = filepath.Join(cfg.Policy, "log")
	if l := audited(none); l.OK {
		t.Errorf("it cannot be written: %+v", l)
	}
}

func TestVolumes(t *testing.T) {
	const narrow = "ceiling: {mounts: {allow: [{source: /home/ada/project, access: rw}, {source: /srv, access: ro}]}}\n"
	for policy, want := range map[string]string{
		narrow:         "",
		"version: 1\n": "no list of the folders",
		"ceiling: {mounts: {allow: [{source: /srv, access: rw}]}}\n":      "all of /srv",
		"ceiling: {mounts: {allow: [{source: /home/ada, access: rw}]}}\n": "all of /home/ada",
		"ceiling: {mounts: {allow: [{source: /, access: ro}]}}\n":         "all of / ",
	} {
		cfg := host(t, policy)
		l := volumes(cfg, load(t, cfg), nil)
		if want == "" != l.OK || want != "" && !strings.Contains(l.Problems[0].What, want) {
			t.Errorf("%s: %+v, want %q", policy, l, want)
		}
	}
	if l := volumes(host(t, narrow), nil, errors.New("broken")); l.OK {
		t.Errorf("%+v of a policy that cannot be used", l)
	}
}

func TestVolumesOfContainers(t *testing.T) {
	cfg := host(t, "ceiling: {mounts: {allow: [{source: /srv/x, access: rw}]}}\n")
	data, err := json.Marshal(sandbox.Info{ID: "c1", Namespace: "moby", Began: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cfg.RunDir, "c1")
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "vm.json"), data, 0o600)); err != nil {
		t.Fatal(err)
	}
	log := audit.NewLog(audit.Options{Dir: cfg.Audit.Dir, MaxSize: 1 << 20, Keep: 2})
	defer log.Close()
	note := func(e audit.Entry) {
		t.Helper()
		if err := log.Append(audit.NewRecord(time.Now(), audit.Identity{Container: "c1"}, e)); err != nil {
			t.Fatal(err)
		}
	}
	mount := func(source, path string) {
		t.Helper()
		note(audit.Entry{Event: audit.Mount, Decision: audit.Allow, Object: &audit.Object{Source: source, Path: path, Access: "rw"}})
	}
	life := func(action string) {
		t.Helper()
		note(audit.Entry{Event: audit.Lifecycle, Object: &audit.Object{Action: action}})
	}
	check := func(ok bool) {
		t.Helper()
		if l := volumes(cfg, load(t, cfg), nil); l.OK != ok {
			t.Errorf("%+v, want %v", l, ok)
		}
	}
	note(audit.Entry{Event: audit.Exec})
	check(false) // nobody knows what it was given
	mount("/srv/x", "")
	life("create")
	check(true)
	// It is judged by what it is, not by what it is called.
	life("delete")
	mount("/srv/link", "/opt")
	life("create")
	check(false)
	life("delete")
	mount("/srv/x/y", "")
	life("create")
	check(true)
}

func TestBroad(t *testing.T) {
	for folder, want := range map[string]bool{
		"/": true, "/srv": true, "/home": true, "/home/ada": true, "/var/home/ada": true, "/root": true, "/srv/": true,
		"/srv/data": false, "/home/ada/project": false, "/var/lib/docker/volumes/x/_data": false,
	} {
		if broad(folder) != want {
			t.Errorf("%s: %v", folder, !want)
		}
	}
}

func TestPrint(t *testing.T) {
	r := Report{Lines: []Line{{Name: "engine", OK: true, Found: "it answers"}, {Name: "audit", Problems: []Problem{{"no log", "make one"}, {What: "odd"}}}}}
	var b strings.Builder
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	const want = `ok       engine        it answers
MISSING  audit
                       no log
                       => make one
                       odd

NOT READY.
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}
