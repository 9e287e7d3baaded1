package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/shim/audit"
	"github.com/nanoclaw/nanoclaw/shim/config"
	"github.com/nanoclaw/nanoclaw/shim/stdio"
)

// emulator is a hypervisor that is only asked what it is.
type emulator struct{ hypervisor.Hypervisor }

func (emulator) Name() string   { return "emulator" }
func (emulator) Isolates() bool { return false }

func auditConfig(t *testing.T) config.Audit {
	t.Helper()
	cfg := config.Default().Audit
	cfg.Dir = filepath.Join(t.TempDir(), "log")
	return cfg
}

// unwritable makes every write to the log of cfg fail.
func unwritable(t *testing.T, cfg config.Audit) {
	t.Helper()
	if err := os.WriteFile(cfg.Dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// story is what the log says, a line for each record, without times and ids.
func story(t *testing.T, cfg config.Audit) []string {
	t.Helper()
	var lines []string
	if err := audit.Each(cfg.Dir, func(r *audit.Record) error {
		entry, err := json.Marshal(r.Entry)
		lines = append(lines, strings.Join([]string{r.Container, r.Agent, r.Policy, string(entry)}, " "))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return lines[1:] // the log's own first
}

func mustTell(t *testing.T, cfg config.Audit, want ...string) {
	t.Helper()
	got := story(t, cfg)
	if len(got) != len(want) {
		t.Fatalf("%d records, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got  %s\nwant %s", got[i], want[i])
		}
	}
}

func TestRecordingOfACreation(t *testing.T) {
	cfg := auditConfig(t)
	r := newRecording(t.Context(), cfg, "c1", "sales")
	defer r.close()
	r.Identify("sales", "d1")
	r.mount(annotations.Mount{Destination: "/w", ReadOnly: true, Source: annotations.Source{Asked: "/srv/x", Path: "/mnt/x"}}, nil, nil)
	if err := r.created(t.Context(), emulator{}, &annotations.Policy{Mode: annotations.ModeEnforce}); err != nil {
		t.Fatal(err)
	}
	mustTell(t, cfg,
		`c1 sales d1 {"event":"mount","decision":"allow","object":{"source":"/srv/x","path":"/mnt/x","destination":"/w","access":"ro"}}`,
		`c1 sales d1 {"event":"lifecycle","decision":"allow","object":{"action":"create","hypervisor":"emulator","emulated":true,"mode":"enforce"}}`)
}

func TestRecordingOfARefusal(t *testing.T) {
	cfg := auditConfig(t)
	r := newRecording(t.Context(), cfg, "c1", "")
	refusal := &annotations.Refusal{Rule: "mounts.refuse /etc", What: "the mount", Why: "it is a system folder", Instead: "nothing"}
	refusal.Layer = annotations.LayerBaseline
	r.mount(annotations.Mount{Destination: "/ok", Source: annotations.Source{Asked: "/srv", Path: "/srv"}}, nil, nil)
	r.mount(annotations.Mount{Destination: "/e", Source: annotations.Source{Asked: "/etc", Path: "/etc"}}, refusal, nil)
	r.mount(annotations.Mount{Destination: "/w", Source: annotations.Source{Asked: "/a", Path: "/a"}}, nil, refusal)
	r.notCreated(t.Context(), fmt.Errorf("share: %w", refusal))
	r.close()
	mustTell(t, cfg,
		`c1   {"event":"mount","decision":"allow","object":{"source":"/srv","destination":"/ok","access":"rw"}}`,
		`c1   {"event":"mount","decision":"deny","rule":"mounts.refuse /etc","object":{"source":"/etc","destination":"/e","access":"rw","layer":"baseline","detail":"it is a system folder"}}`,
		`c1   {"event":"mount","decision":"allow","would":"deny","rule":"mounts.refuse /etc","object":{"source":"/a","destination":"/w","access":"rw","layer":"baseline","detail":"it is a system folder"}}`,
		`c1   {"event":"lifecycle","decision":"deny","rule":"mounts.refuse /etc","object":{"action":"create","layer":"baseline","detail":"it is a system folder"}}`)
}

func TestRecordingOfAFailedCreation(t *testing.T) {
	cfg := auditConfig(t)
	r := newRecording(t.Context(), cfg, "c1", "")
	r.notCreated(t.Context(), errors.New("the guest did not boot: \x1b[2J"))
	r.close()
	mustTell(t, cfg, `c1   {"event":"lifecycle","object":{"action":"create-failed","detail":"the guest did not boot: \\x1b[2J"}}`)
}

func TestRecordingOfProcesses(t *testing.T) {
	cfg := auditConfig(t)
	r := newRecording(t.Context(), cfg, "c1", "")
	spec := &specs.Process{Args: []string{"sh", "-c", "id"}, Env: []string{"TOKEN=secret"}, User: specs.User{UID: 1000}}
	document, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	status := uint32(3)
	init, exec := newProcess("", stdio.Paths{}), newProcess("e1", stdio.Paths{})
	r.note(t.Context(), starting("", spec))
	r.note(t.Context(), starting("e1", execProcess(document)))
	r.note(t.Context(), starting("e2", execProcess([]byte("not JSON"))))
	r.note(t.Context(), ended(exec, "start-failed", audit.Object{Detail: "no such program"}))
	r.note(t.Context(), ended(init, "exit", audit.Object{Status: &status, OOM: true}))
	r.close()
	mustTell(t, cfg,
		`c1   {"event":"lifecycle","decision":"allow","subject":{"uid":1000,"argv":["sh","-c","id"]},"object":{"action":"start"}}`,
		`c1   {"event":"exec","decision":"allow","subject":{"uid":1000,"argv":["sh","-c","id"]},"object":{"action":"start","exec":"e1"}}`,
		`c1   {"event":"exec","decision":"allow","object":{"action":"start","exec":"e2"}}`,
		`c1   {"event":"exec","object":{"action":"start-failed","exec":"e1","detail":"no such program"}}`,
		`c1   {"event":"lifecycle","object":{"action":"exit","status":3,"oom":true}}`)
}

func TestWithoutARecordNothingHappens(t *testing.T) {
	cfg := auditConfig(t)
	unwritable(t, cfg)
	r := newRecording(t.Context(), cfg, "c1", "")
	defer r.close()
	err := r.created(t.Context(), emulator{}, &annotations.Policy{})
	if err == nil || !strings.Contains(err.Error(), "audit.on_full") || !strings.Contains(err.Error(), cfg.Dir) {
		t.Fatalf("%v: want an error that names the setting and the log", err)
	}
	// Docker would take these words for the container's own command's.
	for _, words := range []string{"no such file", "permission denied", "not a directory"} {
		if strings.Contains(err.Error(), words) {
			t.Errorf("%v", err)
		}
	}
	// A container that runs is stopped.
	var stopped atomic.Int32
	stop := func() { stopped.Add(1) }
	r.stop.Store(&stop)
	if err := r.must(t.Context(), starting("", nil)); err == nil || stopped.Load() != 1 {
		t.Errorf("%v, stopped %d times", err, stopped.Load())
	}
	r.Post(audit.Entry{Event: audit.Exec})
	r.close()
	if stopped.Load() != 2 {
		t.Error("what the guest did went on without a record")
	}
}

func TestOnFullContinue(t *testing.T) {
	cfg := auditConfig(t)
	cfg.OnFull = config.OnFullContinue
	unwritable(t, cfg)
	r := newRecording(t.Context(), cfg, "c1", "")
	var stopped atomic.Int32
	stop := func() { stopped.Add(1) }
	r.stop.Store(&stop)
	if err := r.created(context.Background(), emulator{}, &annotations.Policy{}); err != nil {
		t.Error(err)
	}
	r.Post(audit.Entry{Event: audit.Exec})
	if err := os.Remove(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	r.note(t.Context(), starting("", nil))
	r.close()
	if stopped.Load() != 0 {
		t.Error("the container was stopped")
	}
	got := strings.Join(story(t, cfg), "\n")
	if !strings.Contains(got, `"event":"lost","object":{"action":"unwritten",`) || !strings.Contains(got, `"action":"start"`) {
		t.Errorf("what was not recorded is not counted:\n%s", got)
	}
}
