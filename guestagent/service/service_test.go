package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/guestagent/container"
	"github.com/nanoclaw/nanoclaw/guestagent/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type machine struct {
	clock error
	off   chan string
}

func (m *machine) SetClock(int64) error { return m.clock }
func (m *machine) Seed([]byte) error    { return nil }

func (m *machine) UseCPUs(context.Context, int) error { return nil }

func (m *machine) Booted() (began, called time.Duration) { return time.Second, time.Millisecond }

func (m *machine) PowerOff(reason string) {
	m.off <- reason
	select {}
}

type network func(*agent.NetworkState) error

func (n network) Apply(_ context.Context, s *agent.NetworkState) error { return n(s) }

func dial(t *testing.T, m *machine, n network) agent.AgentService {
	t.Helper()
	s := New(m, n, container.NewManager(container.Config{}))
	server, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(s.Interceptor))
	if err != nil {
		t.Fatal(err)
	}
	agent.RegisterAgentService(server, s)
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(context.Background(), l) }()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	return agent.NewAgentClient(client)
}

func TestUnknownContainerIsNotFound(t *testing.T) {
	c := dial(t, &machine{}, nil)
	ctx := t.Context()
	for name, call := range map[string]func() error{
		"Start":     func() error { _, err := c.Start(ctx, &agent.StartRequest{Container: "x"}); return err },
		"Exec":      func() error { _, err := c.Exec(ctx, &agent.ExecRequest{Container: "x"}); return err },
		"Wait":      func() error { _, err := c.Wait(ctx, &agent.WaitRequest{Container: "x"}); return err },
		"Kill":      func() error { _, err := c.Kill(ctx, &agent.KillRequest{Container: "x"}); return err },
		"Resize":    func() error { _, err := c.Resize(ctx, &agent.ResizeRequest{Container: "x"}); return err },
		"Processes": func() error { _, err := c.Processes(ctx, &agent.ProcessesRequest{Container: "x"}); return err },
		"Pause":     func() error { _, err := c.Pause(ctx, &agent.PauseRequest{Container: "x"}); return err },
		"Resume":    func() error { _, err := c.Resume(ctx, &agent.ResumeRequest{Container: "x"}); return err },
		"Update":    func() error { _, err := c.Update(ctx, &agent.UpdateRequest{Container: "x"}); return err },
		"Stats":     func() error { _, err := c.Stats(ctx, &agent.StatsRequest{Container: "x"}); return err },
		"Decisions": func() error { _, err := c.Decisions(ctx, &agent.DecisionsRequest{Container: "x"}); return err },
		"Delete":    func() error { _, err := c.Delete(ctx, &agent.DeleteRequest{Container: "x"}); return err },
	} {
		if err := errgrpc.ToNative(call()); !errdefs.IsNotFound(err) {
			t.Errorf("%s = %v", name, err)
		}
	}
}

func TestUnreachedIsBounded(t *testing.T) {
	c := dial(t, &machine{}, nil)
	for n, want := range map[int]bool{0: true, agent.MaxUnreached: true, agent.MaxUnreached + 1: false} {
		req := &agent.UnreachedRequest{}
		for range n {
			req.Endpoints = append(req.Endpoints, &agent.Endpoint{Host: "db"})
		}
		if _, err := c.Unreached(t.Context(), req); (err == nil) != want {
			t.Errorf("%d endpoints: %v", n, err)
		}
	}
}

func TestCreateIsChecked(t *testing.T) {
	for name, test := range map[string]struct {
		clock error
		req   *agent.CreateRequest
		is    func(error) bool
		holds string
	}{
		"policy":    {nil, &agent.CreateRequest{Container: "x", Policy: []byte("{")}, errdefs.IsInvalidArgument, "policy"},
		"sandbox":   {nil, &agent.CreateRequest{Container: "x", Policy: []byte("{}"), Sandbox: strings.Repeat("s", 129)}, errdefs.IsInvalidArgument, "sandbox"},
		"clock":     {errors.New("no clock"), &agent.CreateRequest{Container: "x", Policy: []byte("{}")}, func(err error) bool { return err != nil }, "no clock"},
		"container": {nil, &agent.CreateRequest{Container: "../x", Policy: []byte("{}")}, errdefs.IsInvalidArgument, "../x"},
		"stdio":     {nil, &agent.CreateRequest{Container: "x", Policy: []byte("{}"), Stdio: &agent.Stdio{Stdin: "/"}}, errdefs.IsInvalidArgument, "stream id"},
		"spec":      {nil, &agent.CreateRequest{Container: "x", Policy: []byte("{}"), Spec: []byte("{}")}, errdefs.IsInvalidArgument, "root"},
	} {
		_, err := dial(t, &machine{clock: test.clock}, nil).Create(t.Context(), test.req)
		if err := errgrpc.ToNative(err); !test.is(err) || !strings.Contains(err.Error(), test.holds) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNetwork(t *testing.T) {
	failure := errors.New("no such card")
	c := dial(t, &machine{}, func(*agent.NetworkState) error { return failure })
	if _, err := c.Network(t.Context(), &agent.NetworkRequest{}); !errdefs.IsInvalidArgument(errgrpc.ToNative(err)) {
		t.Errorf("Network without a state = %v", err)
	}
	if _, err := c.Network(t.Context(), &agent.NetworkRequest{Network: &agent.NetworkState{}}); err == nil || !strings.Contains(err.Error(), "no such card") {
		t.Errorf("Network = %v", err)
	}
}

func TestPanicPowersOff(t *testing.T) {
	m := &machine{off: make(chan string, 1)}
	c := dial(t, m, func(*agent.NetworkState) error { panic("broken") })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	go func() { _, _ = c.Network(ctx, &agent.NetworkRequest{Network: &agent.NetworkState{}}) }()
	select {
	case <-m.off:
	case <-ctx.Done():
		t.Error("the VM is still on")
	}
}

func TestShutdownPowersOff(t *testing.T) {
	m := &machine{off: make(chan string, 1)}
	c := dial(t, m, nil)
	go func() { _, _ = c.Shutdown(context.Background(), &agent.ShutdownRequest{}) }()
	select {
	case <-m.off:
	case <-time.After(10 * time.Second):
		t.Error("the VM is still on")
	}
}

func TestTheRuntimesWordsHaveAStatusOfTheirOwn(t *testing.T) {
	err := fmt.Errorf("start: %w", &runtime.Error{})
	if got := status.Code(toStatus(err)); got != agent.RuntimeStatus {
		t.Errorf("got %v", got)
	}
	if got := status.Code(toStatus(errors.New("mount it: no such file or directory"))); got != codes.Unknown {
		t.Errorf("got %v", got)
	}
}
