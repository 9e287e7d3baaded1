// Package service answers the host's calls. It only checks what belongs to no
// other package, and turns errors into statuses, once, in Interceptor.
package service

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/nanoclaw/nanoclaw/annotations"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/guestagent/container"
	"github.com/nanoclaw/nanoclaw/guestagent/execgate"
	"github.com/nanoclaw/nanoclaw/guestagent/runtime"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Machine is what is the VM's and no container's.
type Machine interface {
	// SetClock sets the clock to Unix nanoseconds.
	SetClock(unixNano int64) error
	// Seed mixes bytes of the host's random source into the kernel's.
	Seed(entropy []byte) error
	// UseCPUs brings the first n CPUs online, and waits for them to arrive.
	UseCPUs(ctx context.Context, n int) error
	// PowerOff stops everything and ends the VM. It does not return.
	PowerOff(reason string)
	// Booted says what the guest's clock showed when the agent began, and how
	// long after that it had called the host.
	Booted() (began, called time.Duration)
}

// Network is the sandbox's network.
type Network interface {
	// Apply makes the network look like s; nil leaves only loopback.
	Apply(ctx context.Context, s *agent.NetworkState) error
}

// Service implements the agent's protocol.
type Service struct {
	machine    Machine
	network    Network
	containers *container.Manager
}

// New returns a Service.
func New(machine Machine, network Network, containers *container.Manager) *Service {
	return &Service{machine: machine, network: network, containers: containers}
}

// Interceptor gives every error its status. A call that panics ends the VM:
// what the agent knows cannot be relied on any more.
func (s *Service) Interceptor(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	defer func() {
		if r := recover(); r != nil {
			log.G(ctx).Errorf("%s: panic: %v\n%s", info.FullMethod, r, debug.Stack())
			s.machine.PowerOff("the agent failed")
		}
	}()
	reply, err := method(ctx, unmarshal)
	if err != nil {
		log.G(ctx).WithError(err).Debug(info.FullMethod)
		return nil, toStatus(err)
	}
	return reply, nil
}

func toStatus(err error) error {
	said, refused := new(runtime.Error), new(execgate.Refusal)
	if errors.As(err, &said) || errors.As(err, &refused) {
		return status.Error(agent.RuntimeStatus, err.Error())
	}
	return errgrpc.ToGRPC(err)
}

// Create implements the protocol.
func (s *Service) Create(ctx context.Context, req *agent.CreateRequest) (*agent.CreateResponse, error) {
	if err := s.prepare(req); err != nil {
		return nil, err
	}
	log.G(ctx).Infof("create container %.12s of sandbox %.16s, policy %x", req.GetContainer(), req.GetSandbox(), sha256.Sum256(req.GetPolicy()))
	pid, err := s.containers.Create(ctx, req)
	if err != nil {
		return nil, err
	}
	began, called := s.machine.Booted()
	return &agent.CreateResponse{Pid: uint32(pid), BootedNs: uint64(began), CalledNs: uint64(called)}, nil
}

// prepare checks the parts of req that are not the container's and applies
// them: before there is any program of it.
func (s *Service) prepare(req *agent.CreateRequest) error {
	if len(req.GetSandbox()) > agent.MaxContainerID {
		return fmt.Errorf("the sandbox's name is too long: %w", errdefs.ErrInvalidArgument)
	}
	if p := req.GetPolicy(); len(p) > annotations.MaxPolicy || !json.Valid(p) {
		return fmt.Errorf("the policy is not JSON of at most %d bytes: %w", annotations.MaxPolicy, errdefs.ErrInvalidArgument)
	}
	if err := s.machine.SetClock(req.GetHostTime()); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	if err := s.machine.Seed(req.GetEntropy()); err != nil {
		return fmt.Errorf("seed the random source: %w", err)
	}
	return nil
}

// Start implements the protocol.
func (s *Service) Start(ctx context.Context, req *agent.StartRequest) (*agent.StartResponse, error) {
	c, err := s.containers.Get(req.GetContainer())
	if err != nil {
		return nil, err
	}
	if err := s.network.Apply(ctx, req.GetNetwork()); err != nil {
		return nil, err
	}
	if err := c.Start(ctx); err != nil {
		return nil, err
	}
	return &agent.StartResponse{}, nil
}

// Exec implements the protocol.
func (s *Service) Exec(ctx context.Context, req *agent.ExecRequest) (*agent.ExecResponse, error) {
	c, err := s.containers.Get(req.GetContainer())
	if err != nil {
		return nil, err
	}
	pid, err := c.Exec(ctx, req)
	if err != nil {
		return nil, err
	}
	return &agent.ExecResponse{Pid: uint32(pid)}, nil
}

// Wait implements the protocol.
func (s *Service) Wait(ctx context.Context, req *agent.WaitRequest) (*agent.WaitResponse, error) {
	c, err := s.containers.Get(req.GetContainer())
	if err != nil {
		return nil, err
	}
	r, err := c.Wait(ctx, req.GetExec())
	if err != nil {
		return nil, err
	}
	return &agent.WaitResponse{
		ExitStatus:  uint32(r.Status),
		ExitedAt:    timestamppb.New(r.At),
		StdoutBytes: r.Stdout,
		StderrBytes: r.Stderr,
		Oom:         r.OOM,
	}, nil
}

// Kill implements the protocol.
func (s *Service) Kill(_ context.Context, req *agent.KillRequest) (*agent.KillResponse, error) {
	c, err := s.containers.Get(req.GetContainer())
	if err != nil {
		return nil, err
	}
	if err := c.Kill(req.GetExec(), req.GetSignal(), req.GetAll()); err != nil {
		return nil, err
	}
	return &agent.KillResponse{}, nil
}

// Resize implements the protocol.
func (s *Service) Resize(_ context.Context, req *agent.ResizeRequest) (*agent.ResizeResponse, error) {
	c, err := s.containers.Get(req.GetContainer())
	if err != nil {
		return nil, err
	}
	if err := c.Resize(req.GetExec(), req.GetWidth(), req.GetHeight()); err != nil {
		return nil, err
	}
	return &agent.ResizeResponse{}, nil
}

// Processes implements the protocol.
func (s *Service) Processes(_ context.Context, req *agent.ProcessesRequest) (*agent.ProcessesResponse, error) {
	c, err := s.containers.Get(req.GetContainer())
	if err != nil {
		return nil, err
	}
	list, more, err := c.Processes()
	if err != nil {
		return nil, err
	}
	return &agent.ProcessesResponse{Processes: list, More: uint32(more)}, nil
}

// Pause implements the protocol.
func (s *Service) Pause(ctx context.Context, req *agent.PauseRequest) (*agent.PauseResponse, error) {
	c, err := s.containers.Get(req.GetContainer())
	if err != nil {
		return nil, err
	}
	if err := c.Pause(ctx); err != nil {
		return nil, err
	}
	return &agent.PauseResponse{}, nil
}

// Resume implements the protocol.
func (s *Service) Resume(ctx context.Context, req *agent.ResumeRequest) (*agent.ResumeResponse, error) {
	c, err := s.containers.Get(req.GetContainer())
	if err != nil {
		return nil, err
	}
	if err := c.Resume(ctx); err != nil {
		return nil, err
	}
	return &agent.ResumeResponse{}, nil
}

// Update implements the protocol.
func (s *Service) Update(ctx context.Context, req *agent.UpdateRequest) (*agent.UpdateResponse, error) {
	c, err := s.containers.Get(req.GetContainer())
	if err != nil {
		return nil, err
	}
	if n := req.GetCpus(); n != 0 {
		if err := s.machine.UseCPUs(ctx, int(n)); err != nil {
			return nil, err
		}
	}
	if err := c.Update(ctx, req.GetResources()); err != nil {
		return nil, err
	}
	return &agent.UpdateResponse{}, nil
}

// Stats implements the protocol.
func (s *Service) Stats(_ context.Context, req *agent.StatsRequest) (*agent.StatsResponse, error) {
	c, err := s.containers.Get(req.GetContainer())
	if err != nil {
		return nil, err
	}
	m, err := c.Stat()
	if err != nil {
		return nil, err
	}
	raw, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("metrics of container %s: %w", req.GetContainer(), err)
	}
	return &agent.StatsResponse{Metrics: raw}, nil
}

// Network implements the protocol.
func (s *Service) Network(ctx context.Context, req *agent.NetworkRequest) (*agent.NetworkResponse, error) {
	if req.GetNetwork() == nil {
		return nil, fmt.Errorf("no network state: %w", errdefs.ErrInvalidArgument)
	}
	if err := s.network.Apply(ctx, req.GetNetwork()); err != nil {
		return nil, err
	}
	return &agent.NetworkResponse{}, nil
}

// Decisions implements the protocol.
func (s *Service) Decisions(ctx context.Context, req *agent.DecisionsRequest) (*agent.DecisionsResponse, error) {
	c, err := s.containers.Get(req.GetContainer())
	if err != nil {
		return nil, err
	}
	list, lost, err := c.Decisions(ctx, req.GetNoWait())
	if err != nil {
		return nil, err
	}
	return &agent.DecisionsResponse{Decisions: list, Lost: lost}, nil
}

// Unreached implements the protocol.
func (s *Service) Unreached(_ context.Context, req *agent.UnreachedRequest) (*agent.UnreachedResponse, error) {
	if len(req.GetEndpoints()) > agent.MaxUnreached {
		return nil, fmt.Errorf("%d endpoints, and at most %d are told at once: %w", len(req.GetEndpoints()), agent.MaxUnreached, errdefs.ErrInvalidArgument)
	}
	s.containers.Unreached(req.GetEndpoints())
	return &agent.UnreachedResponse{}, nil
}

// Delete implements the protocol.
func (s *Service) Delete(ctx context.Context, req *agent.DeleteRequest) (*agent.DeleteResponse, error) {
	if err := s.containers.Delete(ctx, req.GetContainer()); err != nil {
		return nil, err
	}
	return &agent.DeleteResponse{}, nil
}

// Shutdown implements the protocol.
func (s *Service) Shutdown(context.Context, *agent.ShutdownRequest) (*agent.ShutdownResponse, error) {
	s.machine.PowerOff("the host asked for it")
	return nil, errors.New("the VM is still on")
}
