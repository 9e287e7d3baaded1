package task

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/nanoclaw/nanoclaw/annotations"
)

func mkfifo(t *testing.T, path string) {
	t.Helper()
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCreateFails(t *testing.T) {
	broken := errors.New("it broke")
	for _, tt := range []struct {
		name   string
		change func(*harness, *taskapi.CreateTaskRequest)
		is     func(error) bool
		booted bool
	}{
		{"from a checkpoint", func(_ *harness, r *taskapi.CreateTaskRequest) { r.Checkpoint = "/x" }, errdefs.IsNotImplemented, false},
		{"options of another kind", func(h *harness, r *taskapi.CreateTaskRequest) { r.Options = anyOf(h.t, &events.TaskExit{}) }, errdefs.IsInvalidArgument, false},
		{"options of no known type", func(_ *harness, r *taskapi.CreateTaskRequest) { r.Options = &anypb.Any{TypeUrl: "x"} }, nil, false},
		{"no configuration", func(h *harness, _ *taskapi.CreateTaskRequest) { _ = os.Remove(h.config) }, nil, false},
		{"no bundle", func(_ *harness, r *taskapi.CreateTaskRequest) { r.Bundle = "/nowhere" }, func(err error) bool { return errors.Is(err, os.ErrNotExist) }, false},
		{"no JSON", func(h *harness, r *taskapi.CreateTaskRequest) {
			if err := os.WriteFile(filepath.Join(r.Bundle, "config.json"), []byte("{"), 0o600); err != nil {
				h.t.Fatal(err)
			}
		}, nil, false},
		{"an incomplete document", func(h *harness, r *taskapi.CreateTaskRequest) {
			r.Bundle = bundle(h.t, func(s *specs.Spec) { s.Root = nil })
		}, errdefs.IsInvalidArgument, false},
		{"a refusal", func(h *harness, r *taskapi.CreateTaskRequest) {
			r.Bundle = bundle(h.t, func(s *specs.Spec) { s.Annotations = map[string]string{annotations.Prefix + "no-such-key": "1"} })
		}, func(err error) bool { var refusal *annotations.Refusal; return errors.As(err, &refusal) }, false},
		{"the VM", func(h *harness, _ *taskapi.CreateTaskRequest) { h.boot = func() error { return broken } }, func(err error) bool { return errors.Is(err, broken) }, false},
		{"the streams", func(_ *harness, r *taskapi.CreateTaskRequest) { r.Stdout = "binary:///x" }, func(err error) bool { return errors.Is(err, os.ErrNotExist) }, true},
		{"the VM's end under the call", func(h *harness, _ *taskapi.CreateTaskRequest) {
			h.agent.on("Create", func(ctx context.Context) error { h.vm.end(broken); <-ctx.Done(); return ctx.Err() })
		}, func(err error) bool { return errors.Is(err, broken) && strings.Contains(err.Error(), "agent was lost") }, true},
		{"streams of an unknown kind", func(_ *harness, r *taskapi.CreateTaskRequest) { r.Stdout = "smoke:///x" }, errdefs.IsNotImplemented, true},
		{"the guest", func(h *harness, _ *taskapi.CreateTaskRequest) {
			h.agent.on("Create", fails(errdefs.ErrInvalidArgument))
		}, errdefs.IsInvalidArgument, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHarness(t)
			r := h.request()
			tt.change(h, r)
			_, err := h.Create(t.Context(), r)
			if err == nil || tt.is != nil && !tt.is(err) {
				t.Fatalf("Create = %v", err)
			}
			select {
			case <-h.vm.closed:
				if !tt.booted {
					t.Fatal("a VM was closed that had not been started")
				}
			default:
				if tt.booted {
					t.Fatal("the VM is left")
				}
			}
			if _, err := h.State(t.Context(), &taskapi.StateRequest{ID: id}); !errdefs.IsNotFound(err) {
				t.Fatalf("State = %v", err)
			}
			if all, _ := h.publisher.now(); len(all) != 0 {
				t.Fatalf("told %v", all)
			}
			// Nothing is in the way of the shim's end, nor of another try.
			if _, err := h.Shutdown(t.Context(), &taskapi.ShutdownRequest{}); err != nil {
				t.Fatal(err)
			}
			<-h.shutdown.Done()
		})
	}
}

// Docker sends runc's options to a runtime that it knows by name only.
func TestRuncOptionsAreIgnored(t *testing.T) {
	if _, err := loadConfig(anyOf(t, &runcoptions.Options{})); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestBadRequests(t *testing.T) {
	h := newHarness(t)
	h.create()
	h.start("")
	for name, size := range map[string]int{"empty": 0, "too long": 2<<20 + 1} {
		if _, err := h.Exec(t.Context(), &taskapi.ExecProcessRequest{ID: id, ExecID: "e", Spec: &anypb.Any{Value: make([]byte, size)}}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("an exec whose document is %s: %v", name, err)
		}
	}
	if _, err := h.Update(t.Context(), &taskapi.UpdateTaskRequest{ID: id, Resources: &anypb.Any{Value: []byte("[]")}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an update that is none: %v", err)
	}
	h.agent.on("Kill", fails(errdefs.ErrInvalidArgument))
	if err := h.kill("", 99); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a signal that is none: %v", err)
	}
	// It ended in this moment; its exit is on the way.
	h.agent.on("Kill", fails(errdefs.ErrNotFound))
	if err := h.kill("", sigkill); !errdefs.IsNotFound(err) || h.vm.ended() {
		t.Errorf("SIGKILL after the end: %v, the VM was ended: %v", err, h.vm.ended())
	}
}

// Both versions of the API are served, with errors as containerd knows them.
func TestBothVersions(t *testing.T) {
	h := newHarness(t)
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.RegisterTTRPC(server); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "task")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(t.Context(), l) }()
	defer func() { _ = server.Close() }()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	defer func() { _ = client.Close() }()

	h.create()
	for _, service := range []string{"containerd.task.v2.Task", "containerd.task.v3.Task"} {
		var state taskapi.StateResponse
		if err := client.Call(t.Context(), service, "State", &taskapi.StateRequest{ID: id}, &state); err != nil || state.GetPid() != vmPID {
			t.Errorf("State of %s = %v, %v", service, &state, err)
		}
		err := client.Call(t.Context(), service, "State", &taskapi.StateRequest{ID: "other"}, &state)
		if !errdefs.IsNotFound(errgrpc.ToNative(err)) {
			t.Errorf("State of another container by %s: %v", service, err)
		}
		for name := range methods(h) {
			if name == "Shutdown" || name == "Create" {
				continue
			}
			// Bytes that are no message.
			err := client.Call(t.Context(), service, name, &anypb.Any{TypeUrl: "x", Value: []byte{0xff}}, &anypb.Any{})
			if err == nil && name != "Connect" {
				t.Errorf("%s of %s took a request of nothing", name, service)
			}
		}
	}
}

func TestEventQueue(t *testing.T) {
	t.Run("sending does not wait", func(t *testing.T) {
		p := &publisher{more: make(chan struct{}), stuck: make(chan struct{})}
		q := newEventQueue("moby", p)
		soon(t, "send", func() {
			for n := range 1000 {
				q.send(fmt.Sprint(n), &events.TaskOOM{})
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if err := q.close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("close = %v while nothing is taken", err)
		}
		close(p.stuck)
		if err := q.close(t.Context()); err != nil {
			t.Fatal(err)
		}
		all, _ := p.now()
		if len(all) != 1000 {
			t.Fatalf("%d of 1000 were published", len(all))
		}
		for n, e := range all {
			if e.topic != fmt.Sprint(n) {
				t.Fatalf("%s came as number %d", e.topic, n)
			}
		}
	})
}
