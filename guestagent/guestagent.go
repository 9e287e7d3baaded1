// Package guestagent is PID 1 of the VM: it boots the guest, dials the host
// once and then does what the host asks until the connection is lost, which
// ends the VM.
//
// Its packages each do one part: boot the system, reaper the children, runtime
// crun, container their state, stdio and streams their output, netconf and
// dnsrelay the network, ocispec the documents, execgate the programs, service the protocol. Nothing
// in it trusts a container; it trusts the host with everything.
package guestagent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	runc "github.com/containerd/go-runc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/mdlayher/vsock"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/guestagent/boot"
	"github.com/nanoclaw/nanoclaw/guestagent/container"
	"github.com/nanoclaw/nanoclaw/guestagent/dnsrelay"
	"github.com/nanoclaw/nanoclaw/guestagent/execgate"
	"github.com/nanoclaw/nanoclaw/guestagent/netconf"
	"github.com/nanoclaw/nanoclaw/guestagent/reaper"
	"github.com/nanoclaw/nanoclaw/guestagent/runtime"
	"github.com/nanoclaw/nanoclaw/guestagent/service"
	"github.com/nanoclaw/nanoclaw/guestagent/streams"
)

const (
	crun         = "/usr/bin/crun"
	runDir       = "/run/nanoclaw"
	bundles      = runDir + "/containers"
	terminals    = runDir + "/pty"
	crunState    = runDir + "/crun"
	sandboxNetNS = "/run/netns/sandbox"
)

// anyCID lets a socket listen whatever number the VM has.
const anyCID = 0xffffffff

// dialTime is how long the host may take to accept.
const dialTime = 30 * time.Second

// Run is all that PID 1 does. When it returns, with the reason, the VM is of no
// use any more; Machine powers it off.
func Run(ctx context.Context, machine *boot.Machine) error {
	if err := start(); err != nil {
		return err
	}
	// The first use of package os's process handles tries them out on a child of
	// its own, which must not be reaped by us.
	if self, err := os.FindProcess(os.Getpid()); err == nil {
		_ = self.Release()
	}
	children := reaper.New()
	go children.Run(ctx)
	runc.Monitor = children.Commands()

	relay := dnsrelay.New()
	sandbox, err := netconf.New(sandboxNetNS, relay)
	if err != nil {
		return err
	}
	switchboard := streams.New(relay.Attach)
	listener, err := vsock.ListenContextID(anyCID, agent.StreamPort, nil)
	if err != nil {
		return fmt.Errorf("listen for the host's streams: %w", err)
	}
	go func() {
		if err := switchboard.Serve(ctx, listener); err != nil {
			log.G(ctx).WithError(err).Error("streams")
		}
	}()

	containers := container.NewManager(container.Config{
		Runtime:          runtime.New(runtime.Config{Command: crun, Root: crunState}),
		Streams:          switchboard,
		Reaper:           children,
		Dir:              bundles,
		TerminalDir:      terminals,
		Share:            agent.ShareDir,
		NetworkNamespace: sandbox.Path(),
		LoadGate:         loadGate,
	})
	return serve(ctx, machine, service.New(machine, sandbox, containers))
}

// loadGate makes a container's exec gate, where there is something for it to do.
func loadGate(want *agent.ExecGate, refused func(container.Refusal)) (container.Gate, error) {
	policy, err := execgate.FromRequest(want)
	if err != nil {
		return nil, err
	}
	if !policy.Needed() {
		return nil, fmt.Errorf("an exec gate without rules: %w", errdefs.ErrInvalidArgument)
	}
	return execgate.Load(policy, func(d *agent.Decision, why execgate.Reason) {
		if !execgate.Refused(d) {
			return
		}
		r := container.Refusal{Decision: d, Why: why.Why, Instead: why.Instead}
		// Of what was no process yet, whoever asked for it is told by its error.
		if execgate.NotRun(d) && d.GetPid() != 0 {
			r.Line = why.Line(d.GetPath())
		}
		refused(r)
	})
}

func start() error {
	if err := boot.Mount(); err != nil {
		return err
	}
	if err := boot.Console(); err != nil {
		return fmt.Errorf("open the console: %w", err)
	}
	boot.Log()
	if err := boot.Protect(); err != nil {
		return err
	}
	if err := boot.Dirs(runDir, bundles, terminals, crunState); err != nil {
		return err
	}
	return os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

// serve dials the host and answers its calls until the connection is lost.
func serve(ctx context.Context, machine *boot.Machine, s *service.Service) error {
	dialing, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	conn, err := vsock.DialContext(dialing, vsock.Host, agent.ControlPort, nil)
	if err != nil {
		return fmt.Errorf("dial the host: %w", err)
	}
	machine.Called()
	server, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(s.Interceptor))
	if err != nil {
		return err
	}
	agent.RegisterAgentService(server, s)
	log.G(ctx).Info("ready")
	err = server.Serve(ctx, newOnce(conn))
	return fmt.Errorf("the host has hung up: %w", err)
}

// once is a listener with one connection. It ends when that does.
type once struct {
	conns chan net.Conn
	addr  net.Addr
	ended chan struct{}
	end   sync.Once
}

func newOnce(conn net.Conn) *once {
	o := &once{conns: make(chan net.Conn, 1), addr: conn.LocalAddr(), ended: make(chan struct{})}
	o.conns <- watched{Conn: conn, closed: o.stop}
	return o
}

var errOnce = errors.New("the only connection has ended")

// Accept returns the connection, and the next time waits for its end.
func (o *once) Accept() (net.Conn, error) {
	select {
	case c := <-o.conns:
		return c, nil
	case <-o.ended:
		return nil, errOnce
	}
}

// Close implements net.Listener.
func (o *once) Close() error {
	o.stop()
	return nil
}

// Addr implements net.Listener.
func (o *once) Addr() net.Addr { return o.addr }

func (o *once) stop() { o.end.Do(func() { close(o.ended) }) }

// watched tells of the connection's end, however it came: the server would
// otherwise go on with calls that nobody waits for.
type watched struct {
	net.Conn
	closed func()
}

func (w watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err != nil {
		w.closed()
	}
	return n, err
}

func (w watched) Close() error {
	err := w.Conn.Close()
	w.closed()
	return err
}
