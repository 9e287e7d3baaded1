package task

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/shim/audit"
	"github.com/nanoclaw/nanoclaw/shim/config"
)

// auditConfig is where the harness's containers are recorded.
func (h *harness) auditConfig() config.Audit {
	h.t.Helper()
	cfg, err := config.Load(h.config)
	if err != nil {
		h.t.Fatal(err)
	}
	return cfg.Audit
}

// recorded is what the audit log tells, an event with its decision and action
// for each record.
func (h *harness) recorded() []string {
	h.t.Helper()
	var all []string
	if err := audit.Each(h.auditConfig().Dir, func(r *audit.Record) error {
		if r.Container == id {
			all = append(all, strings.TrimSpace(string(r.Event)+" "+string(r.Decision))+" "+r.Object.Action)
		}
		return nil
	}); err != nil {
		h.t.Fatal(err)
	}
	return all
}

func (h *harness) mustRecord(want ...string) {
	h.t.Helper()
	if got := h.recorded(); !slices.Equal(got, want) {
		h.t.Errorf("recorded %q, want %q", got, want)
	}
}

// tryStart is start that may fail.
func (h *harness) tryStart(exec string) error {
	_, err := h.Start(h.t.Context(), &taskapi.StartRequest{ID: id, ExecID: exec})
	return err
}

func TestALifeIsRecorded(t *testing.T) {
	h := newHarness(t)
	h.create()
	h.start("")
	h.exec("e1")
	h.start("e1")
	h.agent.exit("e1", &agent.WaitResponse{ExitStatus: 7})
	h.telling("exit e1 7")
	h.agent.exit("", &agent.WaitResponse{ExitStatus: 3})
	h.telling("exit c1 3")
	h.over()
	h.mustRecord("lifecycle allow start", "exec allow start", "exec exit", "lifecycle exit", "lifecycle delete")
}

func TestARefusalIsRecorded(t *testing.T) {
	h := newHarness(t)
	r := h.request()
	r.Bundle = bundle(t, func(s *specs.Spec) { s.Linux.CgroupsPath, s.Linux.Namespaces = "/docker/x", s.Linux.Namespaces[1:] }) // --pid host
	if _, err := h.Create(t.Context(), r); err == nil {
		t.Fatal("it was not refused")
	}
	h.mustRecord("lifecycle deny create")
}

func TestAFailedBootIsRecorded(t *testing.T) {
	h := newHarness(t)
	h.boot = func() error { return errors.New("the guest did not boot") }
	if _, err := h.Create(t.Context(), h.request()); err == nil {
		t.Fatal("it did not fail")
	}
	h.mustRecord("lifecycle create-failed")
}

func TestFailedStartsAreRecorded(t *testing.T) {
	h := newHarness(t)
	h.create()
	h.start("")
	h.exec("e1")
	h.agent.on("Exec", fails(errdefs.ErrNotFound))
	if err := h.tryStart("e1"); err == nil {
		t.Fatal("the exec started")
	}
	h.mustRecord("lifecycle allow start", "exec allow start", "exec start-failed")
}

func TestTheEndOfAVMIsRecorded(t *testing.T) {
	h := newHarness(t)
	h.create()
	h.start("")
	h.vm.end(errors.New("killed"))
	h.telling("exit c1 137")
	h.mustRecord("lifecycle allow start", "boundary vmm-died", "lifecycle exit")
}

func TestASilentAgentIsRecorded(t *testing.T) {
	h := newHarness(t)
	h.create()
	h.start("")
	h.agent.on("Kill", fails(context.DeadlineExceeded))
	if err := h.kill("", sigkill); err != nil {
		t.Fatal(err)
	}
	h.telling("exit c1 137")
	if got := h.recorded(); !slices.Contains(got, "boundary agent-silent") {
		t.Errorf("recorded %q", got)
	}
}

// What cannot be recorded does not happen, and the container does not go on.
func TestNothingHappensWithoutARecord(t *testing.T) {
	h := newHarness(t)
	h.create()
	h.start("")
	h.exec("e1")
	cfg := h.auditConfig()
	if err := os.Rename(cfg.Dir, cfg.Dir+".gone"); err != nil {
		t.Fatal(err)
	}
	unwritable(t, cfg)
	if err := h.tryStart("e1"); err == nil || !strings.Contains(sent(err), "audit.on_full") {
		t.Errorf("%v: want the exec refused", err)
	}
	if h.agent.count("Exec") != 0 {
		t.Error("the guest was asked to run what is not on record")
	}
	select {
	case <-h.vm.done:
	case <-time.After(patience):
		t.Error("the container goes on")
	}
	h.telling("exit c1 137")
}

func TestNothingStartsWithoutALog(t *testing.T) {
	h := newHarness(t)
	unwritable(t, h.auditConfig())
	h.create() // the fake VM has no files, and so nothing that is recorded before it
	if err := h.tryStart(""); err == nil || h.agent.count("Start") != 0 {
		t.Errorf("%v: the container was started", err)
	}
}
