package task

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
)

// outcomes, as one letter each.
const (
	ok       = 'o'
	notFound = 'n'
	wrong    = 'w' // the wrong state
	exists   = 'e'
	lacking  = 'l' // not implemented
	waiting  = 'c' // ends with its context only
)

func outcome(err error) rune {
	switch {
	case err == nil:
		return ok
	case errdefs.IsNotFound(err):
		return notFound
	case errdefs.IsFailedPrecondition(err):
		return wrong
	case errdefs.IsAlreadyExists(err):
		return exists
	case errdefs.IsNotImplemented(err):
		return lacking
	case errdefs.IsCanceled(err):
		return waiting
	}
	return '?'
}

// What every call does in every state of the container.
func TestCallsByState(t *testing.T) {
	states := []struct {
		name  string
		reach func(*harness)
		want  tasktypes.Status
	}{
		{"none", func(*harness) {}, 0},
		{"created", (*harness).create, tasktypes.Status_CREATED},
		{"running", func(h *harness) { h.create(); h.start("") }, tasktypes.Status_RUNNING},
		{"paused", func(h *harness) {
			h.create()
			h.start("")
			if _, err := h.Pause(h.t.Context(), &taskapi.PauseRequest{ID: id}); err != nil {
				h.t.Fatal(err)
			}
		}, tasktypes.Status_PAUSED},
		{"stopped", func(h *harness) {
			h.create()
			h.start("")
			h.agent.exit("", &agent.WaitResponse{})
			h.waits("")
		}, tasktypes.Status_STOPPED},
		{"deleted", func(h *harness) {
			h.create()
			if _, err := h.delete(""); err != nil {
				h.t.Fatal(err)
			}
		}, 0},
	}
	resources, err := json.Marshal(map[string]any{"pids": map[string]any{"limit": 10}})
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range []struct {
		name string
		want string // none, created, running, paused, stopped, deleted
		do   func(context.Context, *harness) error
	}{
		// A fake VM serves once, so a second Create after a Delete is not tried.
		{"Create", "oeeee ", func(ctx context.Context, h *harness) error {
			_, err := h.Create(ctx, h.request())
			return err
		}},
		{"Start", "nowwnn", func(ctx context.Context, h *harness) error {
			_, err := h.Start(ctx, &taskapi.StartRequest{ID: id})
			return err
		}},
		{"Start of an exec", "nwownn", func(ctx context.Context, h *harness) error {
			if err := h.addExec("e"); err != nil {
				return err
			}
			_, err := h.Start(ctx, &taskapi.StartRequest{ID: id, ExecID: "e"})
			return err
		}},
		{"Start of an unknown exec", "nnnnnn", func(ctx context.Context, h *harness) error {
			_, err := h.Start(ctx, &taskapi.StartRequest{ID: id, ExecID: "x"})
			return err
		}},
		{"Exec", "nooonn", func(_ context.Context, h *harness) error { return h.addExec("e") }},
		{"Exec without a name", "n???nn", func(_ context.Context, h *harness) error { return h.addExec("") }},
		{"Exec of the container's name", "neeenn", func(_ context.Context, h *harness) error { return h.addExec(id) }},
		{"Exec twice", "neeenn", func(_ context.Context, h *harness) error {
			if err := h.addExec("e"); err != nil {
				return err
			}
			return h.addExec("e")
		}},
		{"Kill", "nooonn", func(_ context.Context, h *harness) error { return h.kill("", 15) }},
		{"Kill of an unknown exec", "nnnnnn", func(_ context.Context, h *harness) error { return h.kill("x", 9) }},
		{"Kill of an exec that was not started", "nwwwnn", func(_ context.Context, h *harness) error {
			if err := h.addExec("e"); err != nil {
				return err
			}
			return h.kill("e", 9)
		}},
		{"Pause", "nwownn", func(ctx context.Context, h *harness) error {
			_, err := h.Pause(ctx, &taskapi.PauseRequest{ID: id})
			return err
		}},
		{"Resume", "nwwonn", func(ctx context.Context, h *harness) error {
			_, err := h.Resume(ctx, &taskapi.ResumeRequest{ID: id})
			return err
		}},
		{"Update", "nooonn", func(ctx context.Context, h *harness) error {
			_, err := h.Update(ctx, &taskapi.UpdateTaskRequest{ID: id, Resources: &anypb.Any{Value: resources}})
			return err
		}},
		{"Stats", "nooonn", func(ctx context.Context, h *harness) error {
			r, err := h.Stats(ctx, &taskapi.StatsRequest{ID: id})
			if err == nil && (string(r.GetStats().GetValue()) != "figures" || r.GetStats().GetTypeUrl() != "io.containerd.cgroups.v2.Metrics") {
				return fmt.Errorf("got %v", r.GetStats())
			}
			return err
		}},
		{"ResizePty", "nooonn", func(ctx context.Context, h *harness) error {
			_, err := h.ResizePty(ctx, &taskapi.ResizePtyRequest{ID: id, Width: 80, Height: 24})
			return err
		}},
		{"CloseIO", "noooon", func(ctx context.Context, h *harness) error {
			_, err := h.CloseIO(ctx, &taskapi.CloseIORequest{ID: id, Stdin: true})
			return err
		}},
		{"CloseIO of an unknown exec", "nnnnnn", func(ctx context.Context, h *harness) error {
			_, err := h.CloseIO(ctx, &taskapi.CloseIORequest{ID: id, ExecID: "x", Stdin: true})
			return err
		}},
		{"Wait", "nccccn", nil},
		{"Pids", "noooon", func(ctx context.Context, h *harness) error {
			r, err := h.Pids(ctx, &taskapi.PidsRequest{ID: id})
			if err == nil && (len(r.GetProcesses()) != 1 || r.GetProcesses()[0].GetPid() != vmPID) {
				return fmt.Errorf("got %v", r.GetProcesses())
			}
			return err
		}},
		{"Connect", "oooooo", func(ctx context.Context, h *harness) error {
			_, err := h.Connect(ctx, &taskapi.ConnectRequest{ID: id})
			return err
		}},
		{"Delete", "nowwon", func(_ context.Context, h *harness) error {
			r, err := h.delete("")
			if err == nil && r.GetPid() != vmPID {
				return fmt.Errorf("got %v", r)
			}
			return err
		}},
		{"Delete of an unknown exec", "nnnnnn", func(_ context.Context, h *harness) error {
			_, err := h.delete("x")
			return err
		}},
		{"Checkpoint", "llllll", func(ctx context.Context, h *harness) error {
			_, err := h.Checkpoint(ctx, &taskapi.CheckpointTaskRequest{ID: id})
			return err
		}},
	} {
		t.Run(call.name, func(t *testing.T) {
			for i, state := range states {
				want := rune(call.want[i])
				if want == ' ' {
					continue
				}
				h := newHarness(t)
				state.reach(h)
				if state.want != 0 {
					r, err := h.State(t.Context(), &taskapi.StateRequest{ID: id})
					if err != nil || r.GetStatus() != state.want || r.GetPid() != vmPID {
						t.Fatalf("State = %v, %v; want %s", r, err, state.want)
					}
				}
				ctx, do := t.Context(), call.do
				if do == nil {
					// A stopped process's end is known and returned at once.
					if want == waiting && state.want == tasktypes.Status_STOPPED {
						want = ok
					} else {
						var cancel context.CancelFunc
						ctx, cancel = context.WithCancel(ctx)
						cancel()
					}
					do = func(ctx context.Context, h *harness) error {
						_, err := h.Wait(ctx, &taskapi.WaitRequest{ID: id})
						return err
					}
				}
				err := do(ctx, h)
				if got := outcome(err); got != want && (want != '?' || !errdefs.IsInvalidArgument(err)) {
					t.Errorf("%s of a container that is %s: %c (%v), want %c", call.name, state.name, got, err, want)
				}
			}
		})
	}
}

func TestShutdownKeepsContainersAlive(t *testing.T) {
	h := newHarness(t)
	h.create()
	h.start("")
	if _, err := h.Shutdown(t.Context(), &taskapi.ShutdownRequest{}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-h.shutdown.Done():
		t.Fatal("the shim ended under a running container")
	default:
	}
	h.agent.exit("", &agent.WaitResponse{ExitStatus: 3})
	h.waits("")
	if _, err := h.delete(""); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Shutdown(t.Context(), &taskapi.ShutdownRequest{}); err != nil {
		t.Fatal(err)
	}
	<-h.shutdown.Done()
	// Nothing that was to be told is lost with the shim.
	all, _ := h.publisher.now()
	if got := fmt.Sprint(all); got != "[/tasks/create /tasks/start exit c1 3 /tasks/delete]" {
		t.Fatalf("told %s", got)
	}
}
