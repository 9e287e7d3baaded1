package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	coreevents "github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/nanoclaw/nanoclaw/annotations"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/shim/audit"
	"github.com/nanoclaw/nanoclaw/shim/config"
	"github.com/nanoclaw/nanoclaw/shim/guest"
	"github.com/nanoclaw/nanoclaw/shim/guest/guesttest"
	"github.com/nanoclaw/nanoclaw/shim/sandbox"
	"github.com/nanoclaw/nanoclaw/shim/share"
)

// patience is how long a test waits for what must come.
const patience = 10 * time.Second

// vmPID is the fake VM's process.
const vmPID = 4242

// fakeAgent is the agent's service. Every call succeeds, and Wait waits for
// exit, unless a hook says otherwise.
type fakeAgent struct {
	mu    sync.Mutex
	hooks map[string]func(context.Context) error
	calls map[string]int
	// ends holds, for each process, the one reply to Wait.
	ends map[string]chan *agent.WaitResponse
	// onKill is told of each signal.
	onKill func(signal uint32)
	// stdio is what the last Create or Exec was told of the streams.
	stdio *agent.Stdio
}

func newFakeAgent() *fakeAgent {
	return &fakeAgent{hooks: map[string]func(context.Context) error{}, calls: map[string]int{}, ends: map[string]chan *agent.WaitResponse{}}
}

// on has f decide the calls of a method.
func (a *fakeAgent) on(method string, f func(context.Context) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hooks[method] = f
}

// silent never answers.
func silent(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// fails answers with err, as the agent does.
func fails(err error) func(context.Context) error {
	return func(context.Context) error { return errgrpc.ToGRPC(err) }
}

func (a *fakeAgent) call(ctx context.Context, method string) error {
	a.mu.Lock()
	a.calls[method]++
	hook := a.hooks[method]
	a.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(ctx)
}

func (a *fakeAgent) count(method string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.calls[method]
}

func (a *fakeAgent) end(exec string) chan *agent.WaitResponse {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ends[exec] == nil {
		a.ends[exec] = make(chan *agent.WaitResponse, 1)
	}
	return a.ends[exec]
}

// exit says how a process ended.
func (a *fakeAgent) exit(exec string, r *agent.WaitResponse) { a.end(exec) <- r }

func (a *fakeAgent) streams() *agent.Stdio {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stdio
}

func (a *fakeAgent) setStreams(s *agent.Stdio) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stdio = s
}

func (a *fakeAgent) Create(ctx context.Context, r *agent.CreateRequest) (*agent.CreateResponse, error) {
	a.setStreams(r.GetStdio())
	return &agent.CreateResponse{Pid: 1}, a.call(ctx, "Create")
}

func (a *fakeAgent) Start(ctx context.Context, _ *agent.StartRequest) (*agent.StartResponse, error) {
	return &agent.StartResponse{}, a.call(ctx, "Start")
}

func (a *fakeAgent) Exec(ctx context.Context, r *agent.ExecRequest) (*agent.ExecResponse, error) {
	a.setStreams(r.GetStdio())
	return &agent.ExecResponse{}, a.call(ctx, "Exec")
}

func (a *fakeAgent) Wait(ctx context.Context, r *agent.WaitRequest) (*agent.WaitResponse, error) {
	if err := a.call(ctx, "Wait"); err != nil {
		return nil, err
	}
	select {
	case reply := <-a.end(r.GetExec()):
		return reply, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (a *fakeAgent) Kill(ctx context.Context, r *agent.KillRequest) (*agent.KillResponse, error) {
	a.mu.Lock()
	told := a.onKill
	a.mu.Unlock()
	if told != nil {
		told(r.GetSignal())
	}
	return &agent.KillResponse{}, a.call(ctx, "Kill")
}

func (a *fakeAgent) Resize(ctx context.Context, _ *agent.ResizeRequest) (*agent.ResizeResponse, error) {
	return &agent.ResizeResponse{}, a.call(ctx, "Resize")
}

func (a *fakeAgent) Processes(ctx context.Context, _ *agent.ProcessesRequest) (*agent.ProcessesResponse, error) {
	return &agent.ProcessesResponse{}, a.call(ctx, "Processes")
}

func (a *fakeAgent) Pause(ctx context.Context, _ *agent.PauseRequest) (*agent.PauseResponse, error) {
	return &agent.PauseResponse{}, a.call(ctx, "Pause")
}

func (a *fakeAgent) Resume(ctx context.Context, _ *agent.ResumeRequest) (*agent.ResumeResponse, error) {
	return &agent.ResumeResponse{}, a.call(ctx, "Resume")
}

func (a *fakeAgent) Update(ctx context.Context, _ *agent.UpdateRequest) (*agent.UpdateResponse, error) {
	return &agent.UpdateResponse{}, a.call(ctx, "Update")
}

func (a *fakeAgent) Stats(ctx context.Context, _ *agent.StatsRequest) (*agent.StatsResponse, error) {
	return &agent.StatsResponse{Metrics: []byte("figures")}, a.call(ctx, "Stats")
}

func (a *fakeAgent) Network(ctx context.Context, _ *agent.NetworkRequest) (*agent.NetworkResponse, error) {
	return &agent.NetworkResponse{}, a.call(ctx, "Network")
}

// Decisions is asked only of a guest with a gate, which this one has not.
func (a *fakeAgent) Decisions(ctx context.Context, _ *agent.DecisionsRequest) (*agent.DecisionsResponse, error) {
	return &agent.DecisionsResponse{}, a.call(ctx, "Decisions")
}

func (a *fakeAgent) Unreached(ctx context.Context, _ *agent.UnreachedRequest) (*agent.UnreachedResponse, error) {
	return &agent.UnreachedResponse{}, a.call(ctx, "Unreached")
}

func (a *fakeAgent) Delete(ctx context.Context, _ *agent.DeleteRequest) (*agent.DeleteResponse, error) {
	return &agent.DeleteResponse{}, a.call(ctx, "Delete")
}

func (a *fakeAgent) Shutdown(ctx context.Context, _ *agent.ShutdownRequest) (*agent.ShutdownResponse, error) {
	return &agent.ShutdownResponse{}, a.call(ctx, "Shutdown")
}

// fakeVM is a sandbox without a VM.
type fakeVM struct {
	guest *guesttest.Guest
	agent *guest.Agent

	once sync.Once
	done chan struct{}
	// network is the path of the namespace that it is in.
	network string
	cause   error
	wire    func(context.Context) error
	closed  chan struct{}
}

func (v *fakeVM) PID() int               { return vmPID }
func (v *fakeVM) Agent() *guest.Agent    { return v.agent }
func (v *fakeVM) Timing() sandbox.Timing { return sandbox.Timing{} }
func (v *fakeVM) Info() sandbox.Info     { return sandbox.Info{} }
func (v *fakeVM) End() sandbox.End       { return sandbox.EndVMM }
func (v *fakeVM) Done() <-chan struct{}  { return v.done }
func (v *fakeVM) Cause() error           { return v.cause }
func (v *fakeVM) LastWords() string      { return "the guest's last words" }
func (v *fakeVM) Kill()                  { v.end(errors.New("killed")) }

func (v *fakeVM) Wire(ctx context.Context, _ string) (*agent.NetworkState, error) {
	if v.wire != nil {
		return nil, v.wire(ctx)
	}
	return nil, nil
}

func (v *fakeVM) ID() string                                               { return "first" }
func (v *fakeVM) HasNetwork(path string) bool                              { return path == v.network }
func (v *fakeVM) Admits(string, *annotations.Policy) error                 { return nil }
func (v *fakeVM) Grow(context.Context, *specs.LinuxResources) (int, error) { return 0, nil }
func (v *fakeVM) Share() *share.Share                                      { return nil }
func (v *fakeVM) Join(string, string, func(audit.Entry)) error             { return nil }

func (v *fakeVM) NotePolicy(string, *annotations.Policy) error { return nil }

func (v *fakeVM) Leave(context.Context, string) error {
	v.end(errors.New("closed"))
	close(v.closed)
	return nil
}

// end is the VM's end, which cuts its connections.
func (v *fakeVM) end(cause error) {
	v.once.Do(func() {
		v.cause = cause
		v.guest.Cut()
		close(v.done)
	})
}

func (v *fakeVM) ended() bool {
	select {
	case <-v.done:
		return true
	default:
		return false
	}
}

// told is one published event.
type told struct {
	topic string
	event any
}

func (e told) String() string {
	if x, ok := e.event.(*events.TaskExit); ok {
		return fmt.Sprintf("exit %s %d", x.GetID(), x.GetExitStatus())
	}
	return e.topic
}

// publisher keeps what is published.
type publisher struct {
	mu    sync.Mutex
	all   []told
	more  chan struct{}
	stuck chan struct{}
}

func (p *publisher) Publish(_ context.Context, topic string, e coreevents.Event) error {
	if p.stuck != nil {
		<-p.stuck
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, told{topic, e})
	close(p.more)
	p.more = make(chan struct{})
	return nil
}

func (p *publisher) now() ([]told, chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.all), p.more
}

// harness is a Service whose VMs are fake.
type harness struct {
	*Service
	t         *testing.T
	agent     *fakeAgent
	vm        *fakeVM
	publisher *publisher
	shutdown  shutdown.Service
	config    string
	// boot decides a VM's start.
	boot func() error
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	h := &harness{t: t, agent: newFakeAgent(), publisher: &publisher{more: make(chan struct{})}}
	h.config = filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(h.config, []byte("allow_emulation: true\naudit:\n  dir: "+filepath.Join(t.TempDir(), "log")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	_, h.shutdown = shutdown.WithShutdown(ctx)
	h.Service = New(ctx, Options{
		Namespace: "moby", Publisher: h.publisher, Shutdown: h.shutdown,
		Hypervisor: func(context.Context, config.Config) (hypervisor.Hypervisor, error) { return emulator{}, nil },
	})
	g := guesttest.New()
	h.vm = &fakeVM{guest: g, done: make(chan struct{}), closed: make(chan struct{})}
	h.vm.agent = guest.NewAgent(g.Serve(t, h.agent), g)
	t.Cleanup(func() {
		h.vm.end(errors.New("the test is over"))
		h.mu.Lock()
		left := slices.Collect(maps.Values(h.containers))
		h.mu.Unlock()
		for _, c := range left {
			<-c.torn
			c.audit.close()
		}
	})
	h.startVM = func(context.Context, sandbox.Options, func(*share.Share) error) (vm, error) {
		if h.boot != nil {
			if err := h.boot(); err != nil {
				return nil, err
			}
		}
		return h.vm, nil
	}
	return h
}

// bundle makes a container's bundle.
func bundle(t *testing.T, change func(*specs.Spec)) string {
	t.Helper()
	spec := &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{Args: []string{"true"}, Cwd: "/"},
		Root:    &specs.Root{Path: "rootfs"},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace},
			{Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.CgroupNamespace},
		}},
	}
	if change != nil {
		change(spec)
	}
	dir := t.TempDir()
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func anyOf(t *testing.T, v any) *anypb.Any {
	t.Helper()
	a, err := typeurl.MarshalAnyToProto(v)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

const id = "c1"

func (h *harness) request() *taskapi.CreateTaskRequest {
	return &taskapi.CreateTaskRequest{
		ID: id, Bundle: bundle(h.t, nil),
		Options: anyOf(h.t, &runtimeoptions.Options{ConfigPath: h.config}),
	}
}

func (h *harness) create() {
	h.t.Helper()
	if _, err := h.Create(h.t.Context(), h.request()); err != nil {
		h.t.Fatal(err)
	}
}

func (h *harness) start(exec string) {
	h.t.Helper()
	if _, err := h.Start(h.t.Context(), &taskapi.StartRequest{ID: id, ExecID: exec}); err != nil {
		h.t.Fatal(err)
	}
}

func (h *harness) exec(exec string) {
	h.t.Helper()
	if err := h.addExec(exec); err != nil {
		h.t.Fatal(err)
	}
}

func (h *harness) addExec(exec string) error {
	_, err := h.Exec(h.t.Context(), &taskapi.ExecProcessRequest{ID: id, ExecID: exec, Spec: &anypb.Any{Value: []byte(`{"args":["true"]}`)}})
	return err
}

func (h *harness) kill(exec string, signal uint32) error {
	_, err := h.Kill(h.t.Context(), &taskapi.KillRequest{ID: id, ExecID: exec, Signal: signal})
	return err
}

func (h *harness) delete(exec string) (*taskapi.DeleteResponse, error) {
	return h.Delete(h.t.Context(), &taskapi.DeleteRequest{ID: id, ExecID: exec})
}

// waits is Wait, which must end in time.
func (h *harness) waits(exec string) *taskapi.WaitResponse {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	r, err := h.Wait(ctx, &taskapi.WaitRequest{ID: id, ExecID: exec})
	if err != nil {
		h.t.Fatalf("Wait of %q: %v", exec, err)
	}
	return r
}

// telling waits for an event and returns all that were told until then.
func (h *harness) telling(last string) []string {
	h.t.Helper()
	timeout := time.After(patience)
	for {
		all, more := h.publisher.now()
		texts := make([]string, len(all))
		for i, e := range all {
			texts[i] = e.String()
		}
		if slices.Contains(texts, last) {
			return texts
		}
		select {
		case <-more:
		case <-timeout:
			h.t.Fatalf("%q was not told, only %q", last, texts)
		}
	}
}

// over deletes the container and returns everything that was ever told.
func (h *harness) over() []string {
	h.t.Helper()
	if _, err := h.delete(""); err != nil {
		h.t.Fatal(err)
	}
	return h.telling("/tasks/delete")
}

// soon is f, which must not wait for a guest.
func soon(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(time.Second):
		t.Fatalf("%s waits", what)
	}
}
