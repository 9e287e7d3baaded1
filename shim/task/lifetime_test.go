package task

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nanoclaw/nanoclaw/annotations"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/shim/config"
)

// limited is a harness with one container that runs and whose lifetime is a
// second.
func limited(t *testing.T) *harness {
	t.Helper()
	h := newHarness(t)
	h.grace = grace{stop: 100 * time.Millisecond, kill: 100 * time.Millisecond}
	r := h.request()
	r.Bundle = bundle(t, func(s *specs.Spec) { s.Annotations = map[string]string{annotations.KeyLimitsLifetime: "1s"} })
	if _, err := h.Create(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	h.start("")
	return h
}

// signals has the fake guest end its container with status at that signal, and
// returns a list of what it was sent.
func (h *harness) signals(deadly uint32, status uint32) func() string {
	var mu sync.Mutex
	got := []uint32{}
	h.agent.mu.Lock()
	defer h.agent.mu.Unlock()
	h.agent.onKill = func(signal uint32) {
		mu.Lock()
		got = append(got, signal)
		mu.Unlock()
		if signal == deadly {
			h.agent.exit("", &agent.WaitResponse{ExitStatus: status})
		}
	}
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return fmt.Sprint(got)
	}
}

func (h *harness) story() string {
	h.t.Helper()
	cfg, err := config.Load(h.config)
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.Join(story(h.t, cfg.Audit), "\n")
}

func TestTheLifetimeEndsAContainer(t *testing.T) {
	for _, tt := range []struct {
		name         string
		deadly       uint32
		status, want uint32
		signals      string
	}{
		{"that takes SIGTERM, with its own exit code", sigterm, 3, 3, "[15]"},
		{"that ignores it, with SIGKILL", sigkill, 137, 137, "[15 9]"},
		{"whose guest ends nothing, with its VM", 0, 0, 137, "[15 9]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := limited(t)
			signals := h.signals(tt.deadly, tt.status)
			began := time.Now()
			if got := h.waits("").GetExitStatus(); got != tt.want {
				t.Errorf("exit code %d, want %d", got, tt.want)
			}
			if d := time.Since(began); d < 900*time.Millisecond {
				t.Errorf("it ended after %s, and not after a second", d)
			}
			if got := signals(); got != tt.signals {
				t.Errorf("signals %s, want %s", got, tt.signals)
			}
			h.over()
			if got := h.story(); !strings.Contains(got, `"rule":"limits.lifetime","object":{"action":"lifetime-over","layer":"annotation, io.nanoclaw.limits.lifetime"`) {
				t.Errorf("the rule is not on record:\n%s", got)
			}
		})
	}
}

// A guest that does not answer does not live longer.
func TestTheLifetimeNeedsNoAnswer(t *testing.T) {
	t.Parallel()
	h := limited(t)
	h.agent.on("Kill", silent)
	if got := h.waits("").GetExitStatus(); got != killed {
		t.Errorf("exit code %d", got)
	}
	if !h.vm.ended() {
		t.Error("the VM is still there")
	}
	h.over()
}

func TestAPausedContainerIsResumedForItsEnd(t *testing.T) {
	t.Parallel()
	h := limited(t)
	h.signals(0, 0)
	if _, err := h.Pause(t.Context(), &taskapi.PauseRequest{ID: id}); err != nil {
		t.Fatal(err)
	}
	h.agent.on("Resume", func(context.Context) error {
		h.agent.exit("", &agent.WaitResponse{ExitStatus: 143})
		return nil
	})
	if got := h.waits("").GetExitStatus(); got != 143 {
		t.Errorf("exit code %d: a pause is no way to live longer, nor to lose the grace", got)
	}
	h.over()
}

func TestAnEndBeforeTheLifetimesIsItsOwn(t *testing.T) {
	t.Parallel()
	h := limited(t)
	signals := h.signals(sigterm, 143)
	h.agent.exit("", &agent.WaitResponse{ExitStatus: 7})
	h.waits("")
	h.over()
	time.Sleep(1200 * time.Millisecond)
	if got := signals(); got != "[]" {
		t.Errorf("signals %s after the end", got)
	}
	if strings.Contains(h.story(), "lifetime-over") {
		t.Error("its lifetime was over after its end")
	}
}

// Without a lifetime nothing ends a container, and a failed SIGTERM is no end.
func TestNoLifetime(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.agent.on("Kill", fails(errdefs.ErrUnavailable))
	h.create()
	h.start("")
	time.Sleep(1200 * time.Millisecond)
	if h.vm.ended() || h.agent.count("Kill") > 0 {
		t.Error("a container without a lifetime was ended")
	}
	h.vm.end(nil)
	h.waits("")
}
