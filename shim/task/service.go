// Package task serves containerd's task API, version 2 and 3, for containers
// in micro-VMs.
//
// The RPCs here check states and translate; a container's life is in
// container.go, a process's in process.go, the VM's in package sandbox. What
// containerd and Docker rely on beyond the API's types:
//
//   - The PID of a task is the VMM's, a process of ours on the host.
//   - State, Pids, Connect and Wait are answered from the host's memory and
//     never wait for a guest.
//   - An exit is published once, after the process's last output, and before
//     the VM is torn down; Delete waits until nothing of it is left.
//   - What is not implemented says so and is never ignored.
package task

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	coreevents "github.com/containerd/containerd/v2/core/events"
	runtimetypes "github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/shim/audit"
	"github.com/nanoclaw/nanoclaw/shim/config"
	"github.com/nanoclaw/nanoclaw/shim/launch"
	"github.com/nanoclaw/nanoclaw/shim/sandbox"
	"github.com/nanoclaw/nanoclaw/shim/share"
	"github.com/nanoclaw/nanoclaw/shim/stdio"
)

// deleteWait bounds how long Delete waits for the VM's end; Docker gives it 30
// seconds.
const deleteWait = 20 * time.Second

// farewellTimeout bounds how long a shim that ends goes on publishing; containerd
// gives a shim three seconds to end.
const farewellTimeout = 2 * time.Second

// Options are what a Service needs.
type Options struct {
	// Namespace is containerd's.
	Namespace string
	Publisher coreevents.Publisher
	Shutdown  shutdown.Service
	// Began is when the shim's "start" did, for the figures of a start.
	Began time.Time
	// Address is where the shim serves, for an operator to find it.
	Address string
	// Hypervisor chooses how VMs are run on this host.
	Hypervisor func(context.Context, config.Config) (hypervisor.Hypervisor, error)
}

// Service implements the task API.
type Service struct {
	ctx        context.Context
	namespace  string
	events     *eventQueue
	shutdown   shutdown.Service
	launcher   *launch.Launcher
	began      time.Time
	address    string
	hypervisor func(context.Context, config.Config) (hypervisor.Hypervisor, error)
	startVM    func(context.Context, sandbox.Options, func(*share.Share) error) (vm, error)
	grace      grace

	mu         sync.Mutex
	containers map[string]*container
	// creating holds the ids whose Create is under way.
	creating map[string]bool
}

// New returns a Service. ctx is the shim's own.
func New(ctx context.Context, o Options) *Service {
	s := &Service{
		ctx:        ctx,
		namespace:  o.Namespace,
		events:     newEventQueue(o.Namespace, o.Publisher),
		shutdown:   o.Shutdown,
		launcher:   launch.New(),
		began:      o.Began,
		address:    o.Address,
		hypervisor: o.Hypervisor,
		grace:      grace{stop: stopGrace, kill: killGrace},
		startVM: func(ctx context.Context, o sandbox.Options, addContainers func(*share.Share) error) (vm, error) {
			return sandbox.Start(ctx, o, addContainers)
		},
		containers: map[string]*container{},
		creating:   map[string]bool{},
	}
	o.Shutdown.RegisterCallback(func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, farewellTimeout)
		defer cancel()
		return s.events.close(ctx)
	})
	return s
}

func (s *Service) container(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.containers[id]
	if !ok {
		return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
	}
	return c, nil
}

// live returns a container whose VM can be asked, and the process meant.
func (s *Service) live(id, exec string) (*container, *process, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, nil, err
	}
	p, err := c.process(exec)
	if err != nil {
		return nil, nil, err
	}
	if c.init.current() == stopped {
		return nil, nil, fmt.Errorf("the container has exited: process already finished: %w", errdefs.ErrNotFound)
	}
	return c, p, nil
}

// Create starts a VM and makes the container in it.
func (s *Service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if r.GetCheckpoint() != "" {
		return nil, fmt.Errorf("restore from a checkpoint: %w", errdefs.ErrNotImplemented)
	}
	cfg, err := loadConfig(r.GetOptions())
	if err != nil {
		return nil, err
	}
	if err := s.reserve(r.GetID()); err != nil {
		return nil, err
	}
	c, err := s.createContainer(ctx, cfg, r.GetID(), r.GetBundle(), r.GetRootfs(), stdio.Paths{
		Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), Terminal: r.GetTerminal(),
		Namespace: s.namespace, ID: r.GetID(),
	})
	s.mu.Lock()
	delete(s.creating, r.GetID())
	if err == nil {
		s.containers[c.id] = c
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	s.events.send(runtimetypes.TaskCreateEventTopic, &events.TaskCreate{
		ContainerID: c.id,
		Bundle:      r.GetBundle(),
		Rootfs:      r.GetRootfs(),
		IO: &events.TaskIO{
			Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), Terminal: r.GetTerminal(),
		},
		Pid: c.pid(),
	})
	go s.watch(c)
	return &taskapi.CreateTaskResponse{Pid: c.pid()}, nil
}

// reserve takes an id for a container that is being created.
func (s *Service) reserve(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[id] != nil || s.creating[id] {
		return fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	s.creating[id] = true
	return nil
}

// loadConfig reads the configuration that the engine's own configuration names.
func loadConfig(options *anypb.Any) (config.Config, error) {
	path := ""
	if options.GetTypeUrl() != "" {
		v, err := typeurl.UnmarshalAny(options)
		if err != nil {
			return config.Config{}, fmt.Errorf("read the runtime's options: %w", err)
		}
		switch o := v.(type) {
		case *runtimeoptions.Options:
			path = o.GetConfigPath()
		case *runcoptions.Options:
			// Docker sends runc's options to a runtime given by name alone.
		default:
			return config.Config{}, fmt.Errorf("runtime options of type %s: %w", options.GetTypeUrl(), errdefs.ErrInvalidArgument)
		}
	}
	return config.Load(path)
}

// Start starts a container's init or an exec.
func (s *Service) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	c, p, err := s.live(r.GetID(), r.GetExecID())
	if err != nil {
		return nil, err
	}
	if p == c.init {
		err = s.startInit(ctx, c)
	} else {
		err = s.startExec(ctx, c, p)
	}
	if err != nil {
		return nil, err
	}
	return &taskapi.StartResponse{Pid: c.pid()}, nil
}

// Exec prepares one more process; Start starts it.
func (s *Service) Exec(_ context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	c, _, err := s.live(r.GetID(), "")
	if err != nil {
		return nil, err
	}
	if n := len(r.GetSpec().GetValue()); n == 0 || n > agent.MaxSpecBytes {
		return nil, fmt.Errorf("an exec's process document has 1 to %d bytes, not %d: %w", agent.MaxSpecBytes, n, errdefs.ErrInvalidArgument)
	}
	p := newProcess(r.GetExecID(), stdio.Paths{
		Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), Terminal: r.GetTerminal(),
		Namespace: s.namespace, ID: r.GetID(),
	})
	p.spec = r.GetSpec().GetValue()
	if err := c.addExec(p); err != nil {
		return nil, err
	}
	s.events.send(runtimetypes.TaskExecAddedEventTopic, &events.TaskExecAdded{ContainerID: c.id, ExecID: p.exec})
	return &emptypb.Empty{}, nil
}

// Delete forgets a stopped process. A container's init takes the VM with it.
func (s *Service) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	c, err := s.container(r.GetID())
	if err != nil {
		return nil, err
	}
	p, err := c.process(r.GetExecID())
	if err != nil {
		return nil, err
	}
	if err := s.abandon(c, p); err != nil {
		return nil, err
	}
	e, ok := p.exited()
	if !ok {
		return nil, fmt.Errorf("%s of container %s still runs: %w", p.name(), c.id, errdefs.ErrFailedPrecondition)
	}
	if p == c.init {
		if err := s.forget(ctx, c); err != nil {
			return nil, err
		}
	} else {
		if err := c.removeExec(p); err != nil {
			return nil, err
		}
		p.closeStreams()
	}
	return &taskapi.DeleteResponse{Pid: c.pid(), ExitStatus: e.status, ExitedAt: timestamp(e.at)}, nil
}

func (s *Service) forget(ctx context.Context, c *container) error {
	select {
	case <-c.torn:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(deleteWait):
		return fmt.Errorf("the virtual machine of container %s is still there after %s: %w", c.id, deleteWait, errdefs.ErrUnavailable)
	}
	s.mu.Lock()
	known := s.containers[c.id] == c
	if known {
		delete(s.containers, c.id)
	}
	s.mu.Unlock()
	if !known {
		return fmt.Errorf("container %s was deleted meanwhile: %w", c.id, errdefs.ErrNotFound)
	}
	c.audit.note(ctx, audit.Entry{Event: audit.Lifecycle, Object: &audit.Object{Action: "delete"}})
	c.audit.close()
	e, _ := c.init.exited()
	s.events.send(runtimetypes.TaskDeleteEventTopic, &events.TaskDelete{
		ContainerID: c.id, ID: c.id, Pid: c.pid(), ExitStatus: e.status, ExitedAt: timestamp(e.at),
	})
	return nil
}

// Kill signals a process.
func (s *Service) Kill(ctx context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	c, p, err := s.live(r.GetID(), r.GetExecID())
	if err != nil {
		return nil, err
	}
	sigkillInit := r.GetSignal() == sigkill && p == c.init
	switch {
	case p.current() == stopped:
		return nil, fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	case p.current() == created && !p.isStarting() && sigkillInit:
		// The guest is asked for the end of what was started, and nothing was.
		// The VM may hold other containers.
		if err := s.abandon(c, p); err != nil {
			return nil, err
		}
		return &emptypb.Empty{}, nil
	case p.current() == created && !p.isStarting() && p != c.init:
		return nil, fmt.Errorf("%s was not started: %w", p.name(), errdefs.ErrFailedPrecondition)
	}
	_, err = c.sandbox.Agent().RPC().Kill(ctx, &agent.KillRequest{
		Container: c.id, Exec: p.exec, Signal: r.GetSignal(), All: r.GetAll(),
	})
	if err != nil && sigkillInit && !errdefs.IsNotFound(err) {
		// A guest that does not answer is no reason not to die.
		log.G(ctx).WithError(err).WithField("container", c.id).Warn("the guest did not take SIGKILL; its virtual machine is killed")
		c.sandbox.Kill()
		c.audit.note(ctx, audit.Entry{Event: audit.Boundary, Object: &audit.Object{
			Action: "agent-silent", Detail: err.Error(),
		}})
		return &emptypb.Empty{}, nil
	}
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

const sigkill = 9

// Wait waits for a process's end.
func (s *Service) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	c, err := s.container(r.GetID())
	if err != nil {
		return nil, err
	}
	p, err := c.process(r.GetExecID())
	if err != nil {
		return nil, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	e, _ := p.exited()
	return &taskapi.WaitResponse{ExitStatus: e.status, ExitedAt: timestamp(e.at)}, nil
}

// State tells where a process is, from the host's memory.
func (s *Service) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	c, err := s.container(r.GetID())
	if err != nil {
		return nil, err
	}
	p, err := c.process(r.GetExecID())
	if err != nil {
		return nil, err
	}
	status := p.current().status()
	if status == tasktypes.Status_RUNNING && c.isPaused() {
		status = tasktypes.Status_PAUSED
	}
	e, _ := p.exited()
	return &taskapi.StateResponse{
		ID: c.id, ExecID: p.exec, Bundle: c.bundle, Pid: c.pid(), Status: status,
		Stdin: p.paths.Stdin, Stdout: p.paths.Stdout, Stderr: p.paths.Stderr, Terminal: p.paths.Terminal,
		ExitStatus: e.status, ExitedAt: timestamp(e.at),
	}, nil
}

// Pids lists the container's processes on the host: the VMM alone. An empty
// list would make containerd take the task for dead.
func (s *Service) Pids(_ context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	c, err := s.container(r.GetID())
	if err != nil {
		return nil, err
	}
	return &taskapi.PidsResponse{Processes: []*tasktypes.ProcessInfo{{Pid: c.pid()}}}, nil
}

// Connect tells a restarted containerd who we are.
func (s *Service) Connect(_ context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	resp := &taskapi.ConnectResponse{ShimPid: uint32(os.Getpid())}
	if c, err := s.container(r.GetID()); err == nil {
		resp.TaskPid = c.pid()
	}
	return resp, nil
}

// Pause freezes the container's processes.
func (s *Service) Pause(ctx context.Context, r *taskapi.PauseRequest) (*emptypb.Empty, error) {
	c, _, err := s.live(r.GetID(), "")
	if err != nil {
		return nil, err
	}
	if err := c.requireRunning(); err != nil {
		return nil, err
	}
	if _, err := c.sandbox.Agent().RPC().Pause(ctx, &agent.PauseRequest{Container: c.id}); err != nil {
		return nil, err
	}
	c.life.Lock()
	defer c.life.Unlock()
	if err := c.requireRunning(); err != nil {
		return nil, err
	}
	c.setPaused(true)
	s.events.send(runtimetypes.TaskPausedEventTopic, &events.TaskPaused{ContainerID: c.id})
	return &emptypb.Empty{}, nil
}

// Resume lets the container's processes go on.
func (s *Service) Resume(ctx context.Context, r *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	c, _, err := s.live(r.GetID(), "")
	if err != nil {
		return nil, err
	}
	if err := c.requirePaused(); err != nil {
		return nil, err
	}
	if _, err := c.sandbox.Agent().RPC().Resume(ctx, &agent.ResumeRequest{Container: c.id}); err != nil {
		return nil, err
	}
	c.life.Lock()
	defer c.life.Unlock()
	if err := c.requirePaused(); err != nil {
		return nil, err
	}
	c.setPaused(false)
	s.events.send(runtimetypes.TaskResumedEventTopic, &events.TaskResumed{ContainerID: c.id})
	return &emptypb.Empty{}, nil
}

// ResizePty changes the size of a terminal.
func (s *Service) ResizePty(ctx context.Context, r *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	c, p, err := s.live(r.GetID(), r.GetExecID())
	if err != nil {
		return nil, err
	}
	_, err = c.sandbox.Agent().RPC().Resize(ctx, &agent.ResizeRequest{
		Container: c.id, Exec: p.exec, Width: r.GetWidth(), Height: r.GetHeight(),
	})
	return &emptypb.Empty{}, err
}

// CloseIO ends a process's input. It may come before the process has started.
func (s *Service) CloseIO(_ context.Context, r *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	c, err := s.container(r.GetID())
	if err != nil {
		return nil, err
	}
	p, err := c.process(r.GetExecID())
	if err != nil {
		return nil, err
	}
	if r.GetStdin() {
		p.closeStdin()
	}
	return &emptypb.Empty{}, nil
}

// Update changes the container's limits.
func (s *Service) Update(ctx context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	c, _, err := s.live(r.GetID(), "")
	if err != nil {
		return nil, err
	}
	limits, err := narrowed(c.policy, r.GetResources())
	if err != nil {
		return nil, err
	}
	resources, err := json.Marshal(limits)
	if err != nil {
		return nil, err
	}
	cpus, err := c.sandbox.Grow(ctx, limits)
	if err != nil {
		return nil, err
	}
	_, err = c.sandbox.Agent().RPC().Update(ctx, &agent.UpdateRequest{
		Container: c.id, Resources: resources, Cpus: uint32(cpus), //nolint:gosec // at most what the guest's kernel is built for
	})
	return &emptypb.Empty{}, err
}

// Stats returns the figures of the container's own cgroup in the guest.
func (s *Service) Stats(ctx context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	c, _, err := s.live(r.GetID(), "")
	if err != nil {
		return nil, err
	}
	resp, err := c.sandbox.Agent().RPC().Stats(ctx, &agent.StatsRequest{Container: c.id})
	if err != nil {
		return nil, err
	}
	return &taskapi.StatsResponse{Stats: &anypb.Any{
		TypeUrl: "io.containerd.cgroups.v2.Metrics", Value: resp.GetMetrics(),
	}}, nil
}

// Checkpoint is not implemented.
func (s *Service) Checkpoint(context.Context, *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, fmt.Errorf("checkpoint of a container in a virtual machine: %w", errdefs.ErrNotImplemented)
}

// Shutdown ends the shim where no container is left.
func (s *Service) Shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.containers) == 0 && len(s.creating) == 0 {
		s.shutdown.Shutdown()
	}
	return &emptypb.Empty{}, nil
}

var _ taskapi.TTRPCTaskService = (*Service)(nil)
