package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nanoclaw/nanoclaw/shim/audit"
)

// auditLog makes a log and a configuration that names it.
func auditLog(t *testing.T) (dir, configFile string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "log")
	l := audit.NewLog(audit.Options{Dir: dir, MaxSize: 1 << 20, Keep: 2})
	defer l.Close()
	for _, container := range []string{"aaa", "bbb"} {
		for _, decision := range []audit.Decision{audit.Allow, audit.Deny} {
			e := audit.Entry{Event: audit.Exec, Decision: decision, Subject: &audit.Subject{Exe: "/bin/" + container}}
			if err := l.Append(audit.NewRecord(time.Now(), audit.Identity{Container: container, Agent: "agent-" + container}, e)); err != nil {
				t.Fatal(err)
			}
		}
	}
	configFile = filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(configFile, []byte("audit: {dir: "+dir+"}\nrun_dir: /no/such/run\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, configFile
}

func TestAuditShow(t *testing.T) {
	dir, configFile := auditLog(t)
	for name, c := range map[string]struct {
		args  []string
		lines int
		has   string
	}{
		"all":        {nil, 6, "TIME"},
		"container":  {[]string{"--container", "aa"}, 4, "/bin/aaa"},
		"agent":      {[]string{"--agent", "agent-bbb"}, 4, "/bin/bbb"},
		"event":      {[]string{"--event", "exec"}, 5, "exec"},
		"violations": {[]string{"--violations"}, 3, "deny"},
		"since":      {[]string{"--since", "1h"}, 6, "allow"},
		"json":       {[]string{"--json"}, 5, `"prev":"`},
	} {
		for _, where := range [][]string{{"--dir", dir}, {"--config", configFile}} {
			code, stdout, stderr := run(t, append(append([]string{"audit", "show"}, where...), c.args...)...)
			if code != 0 || stderr != "" || strings.Count(stdout, "\n") != c.lines || !strings.Contains(stdout, c.has) {
				t.Errorf("%s: exit code %d, stderr %q, stdout\n%s", name, code, stderr, stdout)
			}
		}
	}
}

func TestAuditUsage(t *testing.T) {
	dir, _ := auditLog(t)
	for name, c := range map[string]struct {
		args   []string
		code   int
		stderr string
	}{
		"event":    {[]string{"show", "--dir", dir, "--event", "execs"}, exitUsage, "lifecycle"},
		"since":    {[]string{"show", "--dir", dir, "--since", "yesterday"}, exitUsage, "yesterday"},
		"expect":   {[]string{"verify", "--dir", dir, "--expect", "5"}, exitUsage, "not the place of a record"},
		"argument": {[]string{"verify", dir}, exitUsage, "takes no arguments"},
		"no log":   {[]string{"verify", "--dir", t.TempDir()}, exitFailed, "there is no audit log"},
		"config":   {[]string{"show", "--config", "/no/such/file"}, exitFailed, "/no/such/file"},
	} {
		if code, _, stderr := run(t, append([]string{"audit"}, c.args...)...); code != c.code || !strings.Contains(stderr, c.stderr) {
			t.Errorf("%s: exit code %d, stderr %q", name, code, stderr)
		}
	}
}

func TestAuditVerify(t *testing.T) {
	dir, _ := auditLog(t)
	code, stdout, stderr := run(t, "audit", "verify", "--dir", dir)
	if code != 0 || stderr != "" || !strings.Contains(stdout, "is intact: 5 records") {
		t.Fatalf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	_, place, _ := strings.Cut(strings.TrimSpace(stdout), "last record: ")
	if code, stdout, _ := run(t, "audit", "verify", "--dir", dir, "--expect", place); code != 0 {
		t.Errorf("the place that verify printed is not accepted: %s", stdout)
	}
	if code, stdout, _ := run(t, "audit", "verify", "--dir", dir, "--expect", strings.Replace(place, "5:", "4:", 1)); code != exitFailed || !strings.Contains(stdout, "which is expected") {
		t.Errorf("exit code %d of a place that is not in the log: %s", code, stdout)
	}
	file := filepath.Join(dir, audit.FileName)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.Replace(data, []byte("deny"), []byte("ally"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr = run(t, "audit", "verify", "--dir", dir)
	if code != exitFailed || stderr != "" || !strings.Contains(stdout, "problem  audit.jsonl:3: ") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	code, stdout, _ = run(t, "audit", "verify", "--dir", dir, "--json")
	var report audit.Report
	if err := json.Unmarshal([]byte(stdout), &report); code != exitFailed || err != nil || len(report.Problems) == 0 {
		t.Errorf("exit code %d, %v: %s", code, err, stdout)
	}
}

func TestAuditFollow(t *testing.T) {
	dir, _ := auditLog(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var out, errs bytes.Buffer
	code := Run(ctx, []string{"audit", "follow", "--dir", dir, "-n", "2"}, Streams{In: strings.NewReader(""), Out: &out, Err: &errs})
	if code != 0 || errs.Len() > 0 || strings.Count(out.String(), "/bin/bbb") != 2 || strings.Contains(out.String(), "/bin/aaa") {
		t.Errorf("exit code %d, stderr %q, stdout\n%s", code, &errs, &out)
	}
}

func TestLearn(t *testing.T) {
	dir, _ := auditLog(t)
	code, stdout, stderr := run(t, "learn", "--dir", dir, "--container", "aaa")
	if code != 0 || stderr != "" || !strings.Contains(stdout, `- name: "agent-aaa"`) || !strings.Contains(stdout, `- "/bin/aaa"`) || strings.Contains(stdout, "bbb") {
		t.Errorf("exit code %d, stderr %q, stdout\n%s", code, stderr, stdout)
	}
	if code, stdout, _ := run(t, "learn", "--dir", dir, "--agent", "agent-bbb", "--name", "mine"); code != 0 || !strings.Contains(stdout, `- name: "mine"`) {
		t.Errorf("exit code %d, stdout\n%s", code, stdout)
	}
	if code, _, stderr := run(t, "learn", "--dir", dir); code != exitUsage || !strings.Contains(stderr, "--container or --agent") {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	if code, _, stderr := run(t, "learn", "--dir", dir, "--container", "zzz"); code != exitFailed || !strings.Contains(stderr, "no record") {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
}

func TestPs(t *testing.T) {
	_, configFile := auditLog(t)
	code, stdout, stderr := run(t, "ps", "--config", configFile)
	if code != 0 || stderr != "" || !strings.HasPrefix(stdout, "CONTAINER") || strings.Count(stdout, "\n") != 1 {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	if code, stdout, _ := run(t, "ps", "--config", configFile, "--json"); code != 0 || strings.TrimSpace(stdout) != "[]" {
		t.Errorf("exit code %d, stdout %q", code, stdout)
	}
}
