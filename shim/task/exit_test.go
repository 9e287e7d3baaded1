package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/api/stream"
)

func TestMain(m *testing.M) {
	// What goes wrong here is meant to.
	log.L.Logger.SetOutput(io.Discard)
	os.Exit(m.Run())
}

// sent is the text that containerd gets of an error.
func sent(err error) string {
	if err == nil {
		return ""
	}
	return status.Convert(toStatus(err)).Message()
}

// exits are the exits of what was told.
func exits(texts []string) []string {
	return slices.DeleteFunc(slices.Clone(texts), func(s string) bool { return !strings.HasPrefix(s, "exit ") })
}

// However a container ends, the end of init and of every exec that ran is told
// once, init's last, and everything can be deleted.
func TestOneExitPerProcess(t *testing.T) {
	gone := errors.New("gone")
	for _, tt := range []struct {
		name   string
		happen func(*harness)
		want   string // of init and of the exec that ran
	}{
		{"init exits, then the exec is told to have", func(h *harness) {
			h.agent.exit("", &agent.WaitResponse{ExitStatus: 3})
			h.agent.exit("ran", &agent.WaitResponse{ExitStatus: 7})
		}, "[exit ran 7 exit c1 3]"},
		{"the exec exits first", func(h *harness) {
			h.agent.exit("ran", &agent.WaitResponse{ExitStatus: 7})
			h.telling("exit ran 7")
			h.agent.exit("", &agent.WaitResponse{ExitStatus: 3})
		}, "[exit ran 7 exit c1 3]"},
		{"init exits, the guest is silent about the exec", func(h *harness) {
			h.agent.exit("", &agent.WaitResponse{ExitStatus: 3})
		}, "[exit ran 137 exit c1 3]"},
		{"an exit status that is none", func(h *harness) {
			h.agent.exit("ran", &agent.WaitResponse{ExitStatus: 0x1_07})
			h.agent.exit("", &agent.WaitResponse{ExitStatus: 0xffff_ff03})
		}, "[exit ran 7 exit c1 3]"},
		{"the VM ends", func(h *harness) { h.vm.end(gone) }, "[exit ran 137 exit c1 137]"},
		{"the agent is lost", func(h *harness) {
			h.vm.guest.Cut()
			<-h.vm.agent.Lost()
			// The sandbox ends a VM whose agent is lost.
			h.vm.end(gone)
		}, "[exit ran 137 exit c1 137]"},
		{"SIGKILL, which the guest does not take", func(h *harness) {
			h.agent.on("Kill", fails(errdefs.ErrUnavailable))
			if err := h.kill("", sigkill); err != nil {
				h.t.Fatal(err)
			}
		}, "[exit ran 137 exit c1 137]"},
		{"SIGKILL and nobody answers", func(h *harness) {
			h.agent.on("Kill", silent)
			ctx, cancel := context.WithTimeout(h.t.Context(), 20*time.Millisecond)
			defer cancel()
			if _, err := h.Kill(ctx, &taskapi.KillRequest{ID: id, Signal: sigkill}); err != nil {
				h.t.Fatal(err)
			}
		}, "[exit ran 137 exit c1 137]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			h.create()
			h.start("")
			h.exec("ran")
			h.start("ran")
			h.exec("never")
			tt.happen(h)
			for _, p := range []string{"", "ran", "never"} {
				h.waits(p)
			}
			if _, err := h.delete("ran"); err != nil {
				t.Fatal(err)
			}
			all := h.over()
			if got := fmt.Sprint(exits(all)); got != tt.want {
				t.Errorf("told %s, want %s", got, tt.want)
			}
			if all[len(all)-1] != "/tasks/delete" {
				t.Errorf("after the delete was told: %q", all)
			}
			select {
			case <-h.vm.closed:
			default:
				t.Error("the VM was not closed before Delete returned")
			}
		})
	}
}

// A guest that says it knows nothing of a process that it started.
func TestGuestDeniesAProcess(t *testing.T) {
	t.Run("exec", func(t *testing.T) {
		h := newHarness(t)
		h.create()
		h.start("")
		h.exec("e")
		for h.agent.count("Wait") == 0 {
			time.Sleep(time.Millisecond)
		}
		h.agent.on("Wait", fails(errdefs.ErrNotFound))
		h.start("e")
		if r := h.waits("e"); r.GetExitStatus() != unknown {
			t.Fatalf("the exec ended with %d", r.GetExitStatus())
		}
		if h.vm.ended() {
			t.Fatal("the container was ended with its exec")
		}
		h.telling("exit e 255")
	})
	t.Run("init", func(t *testing.T) {
		h := newHarness(t)
		h.create()
		h.agent.on("Wait", fails(errdefs.ErrNotFound))
		h.start("")
		if r := h.waits(""); r.GetExitStatus() != killed {
			t.Fatalf("init ended with %d", r.GetExitStatus())
		}
		if got := fmt.Sprint(h.over()); got != "[/tasks/create /tasks/start exit c1 137 /tasks/delete]" {
			t.Fatalf("told %s", got)
		}
	})
}

// What has not started can end, too: once, and without asking the guest.
func TestEndBeforeStart(t *testing.T) {
	for name, end := range map[string]func(*harness){
		"kill": func(h *harness) {
			if err := h.kill("", sigkill); err != nil {
				h.t.Fatal(err)
			}
			if r := h.waits(""); r.GetExitStatus() != killed {
				h.t.Fatalf("ended with %d", r.GetExitStatus())
			}
		},
		"delete":      func(*harness) {},
		"the VM ends": func(h *harness) { h.vm.end(errors.New("gone")); h.waits("") },
		"a start that failed": func(h *harness) {
			h.agent.on("Start", fails(status.Error(agent.RuntimeStatus, "exec: \"x\": executable file not found in $PATH")))
			_, err := h.Start(h.t.Context(), &taskapi.StartRequest{ID: id})
			if sent(err) != "exec: \"x\": executable file not found in $PATH" {
				h.t.Fatalf("Start = %v", err)
			}
		},
		"a network that failed": func(h *harness) {
			h.vm.wire = func(context.Context) error { return os.ErrPermission }
			_, err := h.Start(h.t.Context(), &taskapi.StartRequest{ID: id})
			if sent(err) != "access is denied" {
				h.t.Fatalf("Start = %v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.create()
			end(h)
			if got := fmt.Sprint(h.over()); got != "[/tasks/create exit c1 137 /tasks/delete]" {
				t.Fatalf("told %s", got)
			}
			if h.agent.count("Kill") != 0 {
				t.Fatal("the guest was asked to kill what had not started")
			}
		})
	}
}

// A start that failed may be tried again: Docker does so after some.
func TestStartAgain(t *testing.T) {
	h := newHarness(t)
	h.create()
	h.agent.on("Start", fails(errdefs.ErrUnavailable))
	if _, err := h.Start(t.Context(), &taskapi.StartRequest{ID: id}); !errdefs.IsUnavailable(err) {
		t.Fatalf("Start = %v", err)
	}
	h.agent.on("Start", nil)
	h.start("")
}

func TestExecThatNeverStarts(t *testing.T) {
	for name, fail := range map[string]func(*harness){
		"it is not started": func(*harness) {},
		"the guest cannot start it": func(h *harness) {
			h.agent.on("Exec", fails(status.Error(agent.RuntimeStatus, "permission denied")))
			_, err := h.Start(h.t.Context(), &taskapi.StartRequest{ID: id, ExecID: "e"})
			// The guest's own words: Docker makes an exit code of them.
			if sent(err) != "permission denied" {
				h.t.Fatalf("Start = %v", err)
			}
		},
		"its streams cannot be opened": func(h *harness) {
			h.vm.guest.Refuse(errors.New("nobody listens"))
			if _, err := h.Start(h.t.Context(), &taskapi.StartRequest{ID: id, ExecID: "e"}); err == nil {
				h.t.Fatal("it started without its streams")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.create()
			h.start("")
			if _, err := h.Exec(t.Context(), &taskapi.ExecProcessRequest{
				ID: id, ExecID: "e", Spec: &anypb.Any{Value: []byte("{}")}, Stdout: "file://" + filepath.Join(t.TempDir(), "out"),
			}); err != nil {
				t.Fatal(err)
			}
			fail(h)
			ended := make(chan error, 1)
			go func() {
				_, err := h.Wait(context.Background(), &taskapi.WaitRequest{ID: id, ExecID: "e"})
				ended <- err
			}()
			time.Sleep(10 * time.Millisecond)
			if _, err := h.delete("e"); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err != nil && !errdefs.IsNotFound(err) {
				t.Fatal(err)
			}
			// Its id is free again.
			h.exec("e")
			h.agent.exit("", &agent.WaitResponse{})
			h.waits("")
			if got := exits(h.over()); len(got) != 1 {
				t.Fatalf("told %q", got)
			}
		})
	}
}

// The VM may end while the guest is asked to start something.
func TestEndWhileStarting(t *testing.T) {
	for _, exec := range []string{"", "e"} {
		t.Run("process "+exec, func(t *testing.T) {
			h := newHarness(t)
			h.create()
			method := "Start"
			if exec != "" {
				method = "Exec"
				h.start("")
				h.exec(exec)
			}
			asked, answer := make(chan struct{}), make(chan struct{})
			h.agent.on(method, func(context.Context) error {
				close(asked)
				<-answer
				return nil
			})
			result := make(chan error, 1)
			go func() {
				_, err := h.Start(context.Background(), &taskapi.StartRequest{ID: id, ExecID: exec})
				result <- err
			}()
			<-asked
			if _, err := h.Start(t.Context(), &taskapi.StartRequest{ID: id, ExecID: exec}); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("a second Start = %v", err)
			}
			if _, err := h.delete(exec); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("Delete while it is started = %v", err)
			}
			if exec == "" {
				h.vm.end(errors.New("gone"))
			} else {
				h.agent.exit("", &agent.WaitResponse{ExitStatus: 3})
			}
			h.waits("")
			close(answer)
			if err := <-result; err == nil {
				t.Error("Start of what has ended succeeded")
			}
			h.waits(exec)
			all := h.over()
			if got := exits(all); len(got) != 1 || slices.Contains(all, "/tasks/exec-started") || exec == "" && slices.Contains(all, "/tasks/start") {
				t.Errorf("told %q", all)
			}
		})
	}
}

// A process that ends at once ends after it has started, for those who are told.
func TestStartIsToldBeforeExit(t *testing.T) {
	for range 20 {
		h := newHarness(t)
		h.agent.exit("", &agent.WaitResponse{ExitStatus: 3})
		h.create()
		h.start("")
		h.waits("")
		if got := fmt.Sprint(h.over()); got != "[/tasks/create /tasks/start exit c1 3 /tasks/delete]" {
			t.Fatalf("told %s", got)
		}
	}
}

func TestOOMIsToldBeforeExit(t *testing.T) {
	h := newHarness(t)
	h.create()
	h.start("")
	h.agent.exit("", &agent.WaitResponse{ExitStatus: 137, Oom: true})
	h.waits("")
	if got := fmt.Sprint(h.over()); got != "[/tasks/create /tasks/start /tasks/oom exit c1 137 /tasks/delete]" {
		t.Fatalf("told %s", got)
	}
}

// The guest's clock is not believed beyond what is possible.
func TestExitTime(t *testing.T) {
	began := time.Now()
	for name, said := range map[string]time.Time{
		"before": began.Add(-time.Hour), "after": began.Add(time.Hour), "none": {},
	} {
		h := newHarness(t)
		h.create()
		h.start("")
		h.agent.exit("", &agent.WaitResponse{ExitedAt: timestamppb.New(said)})
		if at := h.waits("").GetExitedAt().AsTime(); at.Before(began) || at.After(time.Now()) {
			t.Errorf("%s: exited at %s", name, at)
		}
	}
}

// What a process wrote is with its client before its exit is told, also when
// the VM is gone with what it had sent.
func TestOutputComesBeforeExit(t *testing.T) {
	for _, vmEnds := range []bool{false, true} {
		t.Run(fmt.Sprintf("the VM ends: %v", vmEnds), func(t *testing.T) {
			h := newHarness(t)
			out := filepath.Join(t.TempDir(), "out")
			r := h.request()
			r.Stdout = "file://" + out
			if _, err := h.Create(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			h.start("")
			conn, err := h.vm.guest.Stream(stream.Stdout, h.agent.streams().GetStdout())
			if err != nil {
				t.Fatal(err)
			}
			written := make(chan error, 1)
			const size = 1 << 20
			go func() {
				// Half of it comes only after the exit, or the VM's end, is known.
				w := stream.NewWriter(conn)
				_, err := w.Write(make([]byte, size/2))
				if vmEnds {
					h.vm.end(errors.New("gone"))
				} else {
					h.agent.exit("", &agent.WaitResponse{StdoutBytes: size})
				}
				time.Sleep(50 * time.Millisecond)
				if err == nil {
					_, err = w.Write(make([]byte, size/2))
				}
				// The VM may be closed by now, with all that it had to say said.
				_ = w.CloseStream(patience)
				written <- err
			}()
			h.waits("")
			info, err := os.Stat(out)
			if err != nil || info.Size() != size {
				t.Fatalf("%v bytes were there at the exit, %v; want %d", info.Size(), err, size)
			}
			if err := <-written; err != nil {
				t.Fatal(err)
			}
		})
	}
}

// CloseIO may come before there is anything to close.
func TestCloseIOBeforeStart(t *testing.T) {
	h := newHarness(t)
	h.create()
	h.start("")
	dir := t.TempDir()
	pipe := filepath.Join(dir, "in")
	mkfifo(t, pipe)
	if _, err := h.Exec(t.Context(), &taskapi.ExecProcessRequest{
		ID: id, ExecID: "e", Spec: &anypb.Any{Value: []byte("{}")}, Stdin: pipe,
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.CloseIO(t.Context(), &taskapi.CloseIORequest{ID: id, ExecID: "e", Stdin: true}); err != nil {
		t.Fatal(err)
	}
	h.start("e")
	conn, err := h.vm.guest.Stream(stream.Stdin, h.agent.streams().GetStdin())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	if got, err := io.ReadAll(stream.NewReader(conn)); err != nil || len(got) != 0 {
		t.Fatalf("read %q, %v", got, err)
	}
}

// A guest that never answers holds up no question that the host can answer.
func TestSilentGuest(t *testing.T) {
	h := newHarness(t)
	h.create()
	h.start("")
	h.exec("e")
	for _, method := range []string{"Kill", "Pause", "Stats", "Exec", "Update", "Resize"} {
		h.agent.on(method, silent)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, call := range []func(){
		func() { _, _ = h.Kill(ctx, &taskapi.KillRequest{ID: id, Signal: 15}) },
		func() { _, _ = h.Pause(ctx, &taskapi.PauseRequest{ID: id}) },
		func() { _, _ = h.Stats(ctx, &taskapi.StatsRequest{ID: id}) },
		func() { _, _ = h.Start(ctx, &taskapi.StartRequest{ID: id, ExecID: "e"}) },
	} {
		wg.Go(call)
	}
	for h.agent.count("Kill")+h.agent.count("Pause")+h.agent.count("Stats")+h.agent.count("Exec") < 4 {
		time.Sleep(time.Millisecond)
	}
	soon(t, "State", func() { _, _ = h.State(ctx, &taskapi.StateRequest{ID: id}) })
	soon(t, "State of an exec", func() { _, _ = h.State(ctx, &taskapi.StateRequest{ID: id, ExecID: "e"}) })
	soon(t, "Pids", func() { _, _ = h.Pids(ctx, &taskapi.PidsRequest{ID: id}) })
	soon(t, "Connect", func() {
		if r, err := h.Connect(ctx, &taskapi.ConnectRequest{ID: id}); err != nil || r.GetTaskPid() != vmPID || r.GetShimPid() != uint32(os.Getpid()) {
			t.Errorf("Connect = %v, %v", r, err)
		}
	})
	soon(t, "CloseIO", func() { _, _ = h.CloseIO(ctx, &taskapi.CloseIORequest{ID: id, Stdin: true}) })
	soon(t, "Delete", func() { _, _ = h.delete("") })
	soon(t, "Shutdown", func() { _, _ = h.Shutdown(ctx, &taskapi.ShutdownRequest{}) })
	cancel()
	soon(t, "a call that was given up", wg.Wait)
}

// Nor does one that has not booted yet.
func TestSlowBoot(t *testing.T) {
	h := newHarness(t)
	booting, booted := make(chan struct{}), make(chan struct{})
	h.boot = func() error {
		close(booting)
		<-booted
		return nil
	}
	created := make(chan error, 1)
	r := h.request()
	go func() {
		_, err := h.Create(context.Background(), r)
		created <- err
	}()
	<-booting
	soon(t, "State", func() {
		if _, err := h.State(t.Context(), &taskapi.StateRequest{ID: id}); !errdefs.IsNotFound(err) {
			t.Errorf("State = %v", err)
		}
	})
	soon(t, "Connect", func() { _, _ = h.Connect(t.Context(), &taskapi.ConnectRequest{ID: id}) })
	soon(t, "Create", func() {
		if _, err := h.Create(t.Context(), r); !errdefs.IsAlreadyExists(err) {
			t.Errorf("a second Create = %v", err)
		}
	})
	soon(t, "Shutdown", func() { _, _ = h.Shutdown(t.Context(), &taskapi.ShutdownRequest{}) })
	select {
	case <-h.shutdown.Done():
		t.Error("the shim ended under a container that is being created")
	case <-time.After(50 * time.Millisecond):
	}
	close(booted)
	if err := <-created; err != nil {
		t.Fatal(err)
	}
}

// Everybody at once.
func TestConcurrentCalls(t *testing.T) {
	for _, how := range []string{"exit", "the VM ends"} {
		t.Run(how, func(t *testing.T) {
			h := newHarness(t)
			h.create()
			h.start("")
			var wg sync.WaitGroup
			deleted := make(chan *taskapi.DeleteResponse, 100)
			for n := range 8 {
				wg.Go(func() {
					_, err := h.Wait(context.Background(), &taskapi.WaitRequest{ID: id})
					if err != nil && !errdefs.IsNotFound(err) {
						t.Errorf("Wait = %v", err)
					}
				})
				wg.Go(func() {
					exec := fmt.Sprintf("e%d", n)
					if h.addExec(exec) == nil {
						_, _ = h.Start(context.Background(), &taskapi.StartRequest{ID: id, ExecID: exec})
						_ = h.kill(exec, 9)
						_, _ = h.delete(exec)
					}
				})
				wg.Go(func() { _ = h.kill("", 15) })
				wg.Go(func() {
					for {
						r, err := h.delete("")
						if err == nil {
							deleted <- r
							return
						}
						if errdefs.IsNotFound(err) {
							return
						}
						time.Sleep(time.Millisecond)
					}
				})
			}
			time.Sleep(10 * time.Millisecond)
			if how == "exit" {
				h.agent.exit("", &agent.WaitResponse{ExitStatus: 3})
			} else {
				h.vm.end(errors.New("gone"))
			}
			wg.Wait()
			if len(deleted) != 1 {
				t.Errorf("%d of the deletes succeeded", len(deleted))
			}
			seen := map[string]int{}
			for _, e := range h.telling("/tasks/delete") {
				if f := strings.Fields(e); f[0] == "exit" {
					seen[f[1]]++
				}
			}
			for p, n := range seen {
				if n != 1 {
					t.Errorf("the exit of %s was told %d times", p, n)
				}
			}
			if seen[id] != 1 {
				t.Errorf("told %v", seen)
			}
		})
	}
}

func TestExecThatWasNeverStarted(t *testing.T) {
	h := newHarness(t)
	h.create()
	h.start("")
	h.exec("e")
	if r, err := h.delete("e"); err != nil || r.GetExitStatus() != 0 {
		t.Errorf("its removal gives %v, %v", r, err)
	}
	if _, err := h.delete("e"); !errdefs.IsNotFound(err) {
		t.Errorf("removed again: %v", err)
	}
}

// A guest that ends while its container is made has said why on its console, which
// goes with it: the log keeps it.
func TestAVMThatEndsWhileItsContainerIsMade(t *testing.T) {
	h := newHarness(t)
	h.agent.on("Create", func(ctx context.Context) error {
		h.vm.end(errors.New("guest kernel panicked"))
		return silent(ctx)
	})
	logged := logtest.NewLocal(log.L.Logger)
	t.Cleanup(func() { log.L.Logger.ReplaceHooks(logrus.LevelHooks{}) })
	_, err := h.Create(t.Context(), h.request())
	if err == nil || !strings.Contains(err.Error(), "guest kernel panicked") {
		t.Errorf("Create says %v", err)
	}
	if !slices.ContainsFunc(logged.AllEntries(), func(e *logrus.Entry) bool { return e.Data["console"] == h.vm.LastWords() }) {
		t.Errorf("the console is not in the log: %v", logged.AllEntries())
	}
}
