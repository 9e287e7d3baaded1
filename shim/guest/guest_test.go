package guest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/api/stream"
	"github.com/nanoclaw/nanoclaw/api/stream/streamtest"
	"github.com/nanoclaw/nanoclaw/hypervisor/hybridvsock"
	"github.com/nanoclaw/nanoclaw/shim/guest"
	"github.com/nanoclaw/nanoclaw/shim/guest/guesttest"
)

// killer answers Kill alone.
type killer struct {
	agent.AgentService
	err error
}

func (k killer) Kill(context.Context, *agent.KillRequest) (*agent.KillResponse, error) {
	return &agent.KillResponse{}, k.err
}

func connect(t *testing.T, s agent.AgentService) (*guest.Agent, *guesttest.Guest) {
	t.Helper()
	g := guesttest.New()
	a := guest.NewAgent(g.Serve(t, s), g)
	t.Cleanup(func() { _ = a.Close() })
	return a, g
}

// calls are all of the protocol's, found by its own description.
func calls() map[string]func(context.Context, agent.AgentService) error {
	all := map[string]func(context.Context, agent.AgentService) error{}
	service := reflect.TypeFor[agent.AgentService]()
	for i := range service.NumMethod() {
		m := service.Method(i)
		all[m.Name] = func(ctx context.Context, s agent.AgentService) error {
			out := reflect.ValueOf(s).MethodByName(m.Name).Call([]reflect.Value{
				reflect.ValueOf(ctx), reflect.New(m.Type.In(1).Elem()),
			})
			err, _ := out[1].Interface().(error)
			return err
		}
	}
	return all
}

// A guest that neither reads nor answers: every call but Wait ends by itself,
// in less time than Docker takes to lose patience with a create (none has to be
// longer than a minute).
func TestEveryCallHasADeadline(t *testing.T) {
	for name, call := range calls() {
		for _, reads := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				host, there := net.Pipe()
				if reads {
					go func() { _, _ = io.Copy(io.Discard, there) }()
				}
				a := guest.NewAgent(host, nil)
				result := make(chan error, 1)
				go func() { result <- call(t.Context(), a.RPC()) }()
				select {
				case err := <-result:
					if name == "Wait" || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), name) {
						t.Errorf("%s of a silent guest (it reads: %v) = %v", name, reads, err)
					}
				case <-time.After(time.Minute + time.Second):
					if name != "Wait" {
						t.Errorf("%s waits for a silent guest (it reads: %v)", name, reads)
					}
				}
				_ = there.Close()
				_ = a.Close()
				<-a.Lost()
				if name == "Wait" {
					if err := <-result; !errors.Is(err, guest.ErrLost) {
						t.Errorf("Wait = %v after the guest was lost", err)
					}
				}
			})
		}
	}
}

// One call that a guest does not read must not hold the others.
func TestABlockedCallDoesNotHoldTheNext(t *testing.T) {
	host, there := streamtest.Pipe()
	defer func() { _ = there.Close() }()
	a := guest.NewAgent(host, nil)
	defer func() { _ = a.Close() }()
	big := &agent.CreateRequest{Spec: make([]byte, agent.MaxSpecBytes)}
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := a.RPC().Create(ctx, big); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Create = %v", err)
		}
		cancel()
	}
	if a.Calls() != 2 {
		t.Fatalf("%d calls were counted", a.Calls())
	}
}

func TestErrorsOfTheGuest(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for _, tt := range []struct {
		name string
		err  error
		is   func(error) bool
		text string
	}{
		{"not found", status.Error(codes.NotFound, "process \"x\""), errdefs.IsNotFound, `process "x"`},
		{"wrong state", status.Error(codes.FailedPrecondition, "container is paused"), errdefs.IsFailedPrecondition, "container is paused"},
		{"no class", errors.New("exec: \"x\": executable file not found in $PATH"), nil, `exec: "x": executable file not found in $PATH`},
		{"terminal's own bytes", errors.New("a\x1b]0;pwned\x07b\u009bc\nd\te"), nil, "a]0;pwnedbc\nd\te"},
		{"long", errors.New(long), nil, long[:4<<10]},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, _ := connect(t, killer{err: tt.err})
			_, err := a.RPC().Kill(t.Context(), &agent.KillRequest{})
			if err == nil || err.Error() != tt.text {
				t.Fatalf("got %.200q, want %.200q", err, tt.text)
			}
			if tt.is != nil && !tt.is(err) {
				t.Fatalf("%v has lost its class", err)
			}
		})
	}
}

func TestAnsweredCall(t *testing.T) {
	a, _ := connect(t, killer{})
	if _, err := a.RPC().Kill(t.Context(), &agent.KillRequest{}); err != nil {
		t.Fatal(err)
	}
}

func TestLost(t *testing.T) {
	a, g := connect(t, killer{})
	if _, err := a.RPC().Kill(t.Context(), &agent.KillRequest{}); err != nil {
		t.Fatal(err)
	}
	g.Cut()
	<-a.Lost()
	if _, err := a.RPC().Kill(t.Context(), &agent.KillRequest{}); !errors.Is(err, guest.ErrLost) {
		t.Fatalf("Kill = %v, want ErrLost", err)
	}
}

func TestOpenStream(t *testing.T) {
	a, g := connect(t, killer{})
	h := stream.Header{Kind: stream.Stdout, ID: guest.NewStreamID()}
	conn, err := a.OpenStream(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	there, err := g.Stream(h.Kind, h.ID)
	if err != nil {
		t.Fatal(err)
	}
	_ = there.Close()

	if _, err := a.OpenStream(t.Context(), stream.Header{Kind: "other", ID: "00"}); !errors.Is(err, stream.ErrHeader) {
		t.Fatalf("an unknown kind of stream: %v", err)
	}
	refused := errors.New("nobody listens")
	g.Refuse(refused)
	if _, err := a.OpenStream(t.Context(), h); !errors.Is(err, refused) || !strings.Contains(err.Error(), "stdout") {
		t.Fatalf("OpenStream = %v", err)
	}
}

// silentDevice never completes a connection.
type silentDevice struct{}

func (silentDevice) Dial(ctx context.Context, _ uint32) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestOpenStreamHasADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, there := net.Pipe()
		a := guest.NewAgent(host, silentDevice{})
		defer func() {
			_ = there.Close()
			_ = a.Close()
			<-a.Lost()
		}()
		if _, err := a.OpenStream(t.Context(), stream.Header{Kind: stream.Stdout, ID: "00"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("OpenStream = %v", err)
		}
	})
}

func TestStreamIDs(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := guest.NewStreamID()
		if !stream.ValidID(id) || len(id) > agent.MaxStreamID || seen[id] {
			t.Fatalf("%q is no good as an id", id)
		}
		seen[id] = true
	}
}

func TestAcceptTakesOneConnection(t *testing.T) {
	path := filepath.Join(shortDir(t), "v")
	l, err := guest.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	socket := hybridvsock.ListenerPath(path, agent.ControlPort)
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	a, err := l.Accept(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	if again, err := net.Dial("unix", socket); err == nil {
		_ = again.Close()
		t.Fatal("a second connection of the guest was taken")
	}
	if err := l.Close(); err != nil {
		t.Fatalf("closing again: %v", err)
	}
}

func TestAcceptEndsWithContext(t *testing.T) {
	l, err := guest.Listen(filepath.Join(shortDir(t), "v"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := l.Accept(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Accept = %v", err)
	}
}

func TestListenSaysWhere(t *testing.T) {
	if _, err := guest.Listen(filepath.Join(t.TempDir(), "absent", "v")); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Fatalf("Listen = %v", err)
	}
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "guest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// frame is a message of the calls' connection: length, stream, type, flags.
func frame(stream uint32, kind byte, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))
	b = binary.BigEndian.AppendUint32(b, stream)
	return append(append(b, kind, 0), payload...)
}

// A guest that talks without being asked is cut off; it would fill the host's log.
func TestUnaskedAnswers(t *testing.T) {
	host, there := streamtest.Pipe()
	a := guest.NewAgent(host, nil)
	defer func() { _ = a.Close() }()
	go func() {
		for {
			if _, err := there.Write(frame(1, 2, nil)); err != nil {
				return
			}
		}
	}()
	select {
	case <-a.Lost():
	case <-time.After(10 * time.Second):
		t.Fatal("it may go on for ever")
	}
}

// Whatever the guest says instead of an answer, a call ends, and so does the
// connection once the guest has closed it.
func FuzzAgent(f *testing.F) {
	const response = 2
	f.Add([]byte{})
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(frame(1, response, nil))
	f.Add(frame(1, response, []byte{0x0a, 0x02, 0x08, 0x05}))
	f.Add(bytes.Repeat(frame(1, response, []byte{0xff}), 3))
	f.Add(frame(1, 9, []byte("no such type")))
	f.Add(frame(7, response, []byte("no such call")))
	f.Add([]byte("\xff\xff\xff\xff\x00\x00\x00\x01\x02\x00more than 4 MiB are said to follow"))
	f.Fuzz(func(t *testing.T, in []byte) {
		host, there := streamtest.Pipe()
		a := guest.NewAgent(host, nil)
		defer func() { _ = a.Close() }()
		go func() {
			// The call first, so that the bytes meet one.
			_, _ = there.Read(make([]byte, 512))
			_, _ = there.Write(in)
			_ = there.Close()
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := a.RPC().Processes(ctx, &agent.ProcessesRequest{}); errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
			t.Fatal("the call did not end with the connection")
		}
		select {
		case <-a.Lost():
		case <-ctx.Done():
			t.Fatal("the end of the connection was not noticed")
		}
	})
}

// The runtime's words must be told from the agent's: they choose exit codes.
func TestTheRuntimesWordsAreTold(t *testing.T) {
	a, _ := connect(t, killer{err: status.Error(agent.RuntimeStatus, "exec: \"x\": permission denied")})
	_, err := a.RPC().Kill(t.Context(), &agent.KillRequest{})
	var said *guest.RuntimeError
	if !errors.As(err, &said) || said.Error() != "exec: \"x\": permission denied" {
		t.Errorf("got %v", err)
	}
	a, _ = connect(t, killer{err: errors.New("mount it: permission denied")})
	if _, err := a.RPC().Kill(t.Context(), &agent.KillRequest{}); errors.As(err, &said) {
		t.Errorf("the agent's own words are the runtime's: %v", err)
	}
}
