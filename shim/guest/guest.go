// Package guest is the shim's side of the agent's protocol: the one connection
// that the agent makes at boot, the calls over it, and the streams.
//
// Everything that comes from it is untrusted. A call's deadline is set here, so
// that no caller can wait for a guest that does not answer.
package guest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/api/stream"
	"github.com/nanoclaw/nanoclaw/hypervisor/hybridvsock"
)

// Deadlines of calls into the guest. Under emulation a container's creation
// takes some seconds; the others are there to notice a guest that hangs.
const (
	createTimeout  = 60 * time.Second
	controlTimeout = 20 * time.Second
	shortTimeout   = 5 * time.Second
)

// ErrLost is wrapped by errors of calls whose connection to the agent ended.
var ErrLost = errors.New("the connection to the guest agent was lost")

// Dialer connects to a vsock port of the guest.
type Dialer interface {
	Dial(ctx context.Context, port uint32) (net.Conn, error)
}

// Listener waits for the agent's call. It must exist before the guest boots.
type Listener struct {
	l *net.UnixListener
}

// Listen listens for the agent of the VM whose vsock socket is at path.
func Listen(path string) (*Listener, error) {
	l, err := hybridvsock.Listen(path, agent.ControlPort)
	if err != nil {
		return nil, err
	}
	return &Listener{l}, nil
}

// Close stops listening. Closing again does nothing.
func (l *Listener) Close() error {
	if err := l.l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Accept returns the agent once it has called, and stops listening: nothing
// else in the guest can ever reach the host this way.
func (l *Listener) Accept(ctx context.Context, vm Dialer) (*Agent, error) {
	stop := context.AfterFunc(ctx, func() { _ = l.l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := l.l.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("wait for the guest agent: %w", errors.Join(ctx.Err(), err))
	}
	if err := l.Close(); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return NewAgent(conn, vm), nil
}

// Agent is the guest agent as the shim sees it.
type Agent struct {
	client *ttrpc.Client
	rpc    agent.AgentService
	vm     Dialer
	// answers is the connection.
	answers *answers
	lost    chan struct{}

	mu    sync.Mutex
	calls map[string]int
}

// NewAgent returns the agent at the other end of conn, whose VM is vm.
func NewAgent(conn net.Conn, vm Dialer) *Agent {
	a := &Agent{vm: vm, lost: make(chan struct{}), calls: map[string]int{}}
	a.answers = &answers{Conn: conn}
	a.client = ttrpc.NewClient(a.answers,
		ttrpc.WithOnClose(func() { close(a.lost) }),
		ttrpc.WithUnaryClientInterceptor(a.intercept))
	a.rpc = agent.NewAgentClient(a.client)
	return a
}

// intercept bounds, counts and translates every call.
func (a *Agent) intercept(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, _ *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker) error {
	a.count(req.Method)
	if limit := timeout(req.Method); limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	// A request is written without regard to ctx: a guest that does not read
	// would hold every call. One that is left behind here ends with the
	// connection.
	var reply ttrpc.Response
	sent := make(chan error, 1)
	a.answers.expect()
	go func() { sent <- invoke(ctx, req, &reply) }()
	var err error
	select {
	case err = <-sent:
	case <-ctx.Done():
		err = ctx.Err()
	}
	switch {
	case errors.Is(err, ttrpc.ErrClosed):
		return fmt.Errorf("%s: %w", req.Method, ErrLost)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return fmt.Errorf("the guest agent did not answer %s: %w", req.Method, err)
	case err != nil:
		return native(err)
	case reply.GetStatus().GetCode() != int32(codes.OK):
		return native(status.ErrorProto(reply.GetStatus()))
	}
	if err := fewFields(reply.GetPayload()); err != nil {
		return fmt.Errorf("%s: %w", req.Method, errors.Join(err, a.Close()))
	}
	resp.Payload = reply.GetPayload()
	return nil
}

func timeout(method string) time.Duration {
	switch method {
	case "Wait":
		return 0 // as long as the process lives
	case "Create", "Exec":
		return createTimeout
	case "Shutdown", "Stats", "Resize", "Processes":
		return shortTimeout
	}
	return controlTimeout
}

// RPC is the agent's service.
func (a *Agent) RPC() agent.AgentService { return a.rpc }

func (a *Agent) count(method string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls[method]++
}

// Calls is the number of calls made so far.
func (a *Agent) Calls() int {
	n := 0
	for _, calls := range a.CallsByMethod() {
		n += calls
	}
	return n
}

// CallsByMethod is the number of calls made so far, of each method.
func (a *Agent) CallsByMethod() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.calls)
}

// Lost is closed when the connection to the agent has ended.
func (a *Agent) Lost() <-chan struct{} { return a.lost }

// Close ends the connection.
func (a *Agent) Close() error { return a.client.Close() }

// OpenStream connects a stream to the agent.
func (a *Agent) OpenStream(ctx context.Context, h stream.Header) (_ net.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	conn, err := a.vm.Dial(ctx, agent.StreamPort)
	if err != nil {
		return nil, fmt.Errorf("open %s stream: %w", h.Kind, err)
	}
	if err := stream.WriteHeader(conn, h); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s stream: %w", h.Kind, err), conn.Close())
	}
	return conn, nil
}

// NewStreamID returns an id that no one can guess.
func NewStreamID() string {
	var b [16]byte
	// crypto/rand.Read never fails: it ends the program instead.
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
