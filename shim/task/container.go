package task

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types"
	runtimetypes "github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nanoclaw/nanoclaw/annotations"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/shim/cleanup"
	"github.com/nanoclaw/nanoclaw/shim/config"
	"github.com/nanoclaw/nanoclaw/shim/guest"
	"github.com/nanoclaw/nanoclaw/shim/sandbox"
	"github.com/nanoclaw/nanoclaw/shim/share"
	"github.com/nanoclaw/nanoclaw/shim/stdio"
)

// killed is the exit status of a process whose VM ended under it: 128+SIGKILL,
// as if it had been killed, which is what happened.
const killed = 137

// container is one container and the VM it runs in.
type container struct {
	id, bundle string
	init       *process
	sandbox    *sandbox.Sandbox
	policy     *annotations.Policy
	resolvConf string
	// unmountRootfs undoes what the shim itself mounted (none under Docker).
	unmountRootfs func() error
	began         time.Time
	timing        timing

	mu     sync.Mutex
	execs  map[string]*process
	paused bool
	// torn is closed when the VM and all that belongs to it is gone.
	torn chan struct{}
}

// createContainer starts a VM for the container in bundle and makes the
// container in it. On an error nothing is left.
func (s *Service) createContainer(ctx context.Context, cfg config.Config, id, bundle string, rootfs []*types.Mount, paths stdio.Paths) (_ *container, err error) {
	c := &container{
		id: id, bundle: bundle, began: time.Now(),
		init:  newProcess("", paths),
		execs: map[string]*process{},
		torn:  make(chan struct{}),
	}
	c.timing.shim, c.timing.request = s.began, c.began
	var undo cleanup.Stack
	defer func() {
		if err != nil {
			err = errors.Join(err, undo.Run())
		}
	}()

	spec, err := readSpec(bundle)
	if err != nil {
		return nil, err
	}
	// Before anything is started: a refusal must cost nothing and leave nothing.
	if c.policy, err = annotations.Compile(annotations.Input{ID: id, Annotations: spec.Annotations, Spec: spec}); err != nil {
		return nil, err
	}
	c.resolvConf = sandbox.ResolvConf(spec)
	narrowed := c.policy.Apply(spec)

	root := spec.Root.Path
	if !filepath.IsAbs(root) {
		root = filepath.Join(bundle, root)
	}
	if c.unmountRootfs, err = share.MountRootfs(rootfs, root); err != nil {
		return nil, fmt.Errorf("mount the container's root file system: %w", err)
	}
	undo.Add("unmount the root file system", c.unmountRootfs)

	hv, err := s.hypervisor(ctx, cfg)
	if err != nil {
		return nil, err
	}
	var guestSpec *specs.Spec
	c.sandbox, err = sandbox.Start(ctx, sandbox.Options{
		Namespace: s.namespace, ID: id,
		Config: cfg, Hypervisor: hv, Launcher: s.launcher,
		Spec: narrowed, Policy: c.policy,
	}, func(sh *share.Share) error {
		guestSpec, err = sh.AddContainer(ctx, id, narrowed, c.policy, root)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.timing.sandbox = c.sandbox.Timing()
	undo.Add("close the sandbox", func() error { return c.sandbox.Close(context.WithoutCancel(ctx)) })

	streams, err := stdio.Open(ctx, c.sandbox.Agent(), paths, guest.NewStreamID)
	if err != nil {
		return nil, err
	}
	undo.Add("close the container's streams", func() error { streams.Close(); return nil })
	if err := c.createInGuest(ctx, guestSpec, streams); err != nil {
		return nil, err
	}
	c.timing.created = time.Now()
	c.init.setStreams(streams)
	undo.Release()
	return c, nil
}

func (c *container) createInGuest(ctx context.Context, spec *specs.Spec, streams *stdio.Set) error {
	document, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	policy, err := json.Marshal(c.policy)
	if err != nil {
		return err
	}
	entropy := make([]byte, 64)
	_, _ = rand.Read(entropy)
	reply, err := c.sandbox.Agent().RPC().Create(ctx, &agent.CreateRequest{
		Container: c.id,
		Spec:      document,
		Stdio:     streams.Stdio(),
		Policy:    policy,
		HostTime:  time.Now().UnixNano(),
		Entropy:   entropy,
		Sandbox:   c.id,
	})
	if err != nil {
		return err
	}
	c.timing.guestSaid(reply)
	return nil
}

func readSpec(bundle string) (*specs.Spec, error) {
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("read the bundle: %w", err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, fmt.Errorf("read the bundle's config.json: %w", err)
	}
	if spec.Linux == nil || spec.Root == nil || spec.Process == nil {
		return nil, fmt.Errorf("the bundle's config.json lacks linux, root or process: %w", errdefs.ErrInvalidArgument)
	}
	return &spec, nil
}

// process finds a process by exec id; empty is init.
func (c *container) process(exec string) (*process, error) {
	if exec == "" {
		return c.init, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.execs[exec]
	if !ok {
		return nil, fmt.Errorf("exec %s: %w", exec, errdefs.ErrNotFound)
	}
	return p, nil
}

func (c *container) addExec(p *process) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.execs[p.exec]; ok {
		return fmt.Errorf("exec %s: %w", p.exec, errdefs.ErrAlreadyExists)
	}
	c.execs[p.exec] = p
	return nil
}

func (c *container) removeExec(exec string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.execs, exec)
}

// all returns every process, init last, so that exits are told in the order in
// which they must be.
func (c *container) all() []*process {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*process, 0, len(c.execs)+1)
	for _, p := range c.execs {
		all = append(all, p)
	}
	return append(all, c.init)
}

func (c *container) setPaused(v bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = v
}

func (c *container) isPaused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.paused
}

// pid is a process of ours on the host: containerd and Docker use it for
// signals and namespaces there, where a guest's PID would be somebody else's.
func (c *container) pid() uint32 { return uint32(c.sandbox.PID()) }

// startInit joins the VM to the network that the engine has made by now, and
// starts the container's first program.
func (s *Service) startInit(ctx context.Context, c *container) error {
	if err := c.init.begin(); err != nil {
		return err
	}
	c.setStart(time.Now())
	err := func() error {
		state, err := c.sandbox.Wire(ctx, c.resolvConf)
		if err != nil {
			return err
		}
		c.timing.wired = time.Now()
		_, err = c.sandbox.Agent().RPC().Start(ctx, &agent.StartRequest{Container: c.id, Network: state})
		return err
	}()
	c.init.started(err == nil)
	if err != nil {
		return err
	}
	c.timing.started = time.Now()
	s.events.send(runtimetypes.TaskStartEventTopic, &events.TaskStart{ContainerID: c.id, Pid: c.pid()})
	vm := c.sandbox.Machine()
	log.G(ctx).WithFields(c.timing.fields()).WithFields(log.Fields{
		"container":  c.id,
		"hypervisor": vm.Hypervisor,
		"cpus":       vm.CPUs,
		"memory_mib": vm.Memory >> 20,
	}).Info("container started")
	go s.await(c, c.init)
	return nil
}

func (s *Service) startExec(ctx context.Context, c *container, p *process) (err error) {
	if err := p.begin(); err != nil {
		return err
	}
	defer func() { p.started(err == nil) }()
	streams, err := stdio.Open(ctx, c.sandbox.Agent(), p.paths, guest.NewStreamID)
	if err != nil {
		return err
	}
	if _, err := c.sandbox.Agent().RPC().Exec(ctx, &agent.ExecRequest{
		Container: c.id, Exec: p.exec, Process: p.spec, Stdio: streams.Stdio(),
	}); err != nil {
		streams.Close()
		return err
	}
	p.setStreams(streams)
	s.events.send(runtimetypes.TaskExecStartedEventTopic, &events.TaskExecStarted{
		ContainerID: c.id, ExecID: p.exec, Pid: c.pid(),
	})
	go s.await(c, p)
	return nil
}

// await waits for a process's end and tells it, once, after the last byte of
// its output.
func (s *Service) await(c *container, p *process) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	go func() {
		select {
		case <-c.sandbox.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	r, err := c.sandbox.Agent().RPC().Wait(ctx, &agent.WaitRequest{Container: c.id, Exec: p.exec})
	if err != nil {
		// The VM is gone or going; watch tells of every process.
		return
	}
	if err := p.drain(ctx, r.GetStdoutBytes(), r.GetStderrBytes()); err != nil {
		log.G(s.ctx).WithError(err).WithField("container", c.id).Warn("output may be incomplete")
	}
	if r.GetOom() && p == c.init {
		s.events.send(runtimetypes.TaskOOMEventTopic, &events.TaskOOM{ContainerID: c.id})
	}
	at := r.GetExitedAt().AsTime()
	// The guest's clock is the guest's word.
	if now := time.Now(); at.After(now) || at.Before(c.began) {
		at = now
	}
	s.exited(c, p, exit{status: r.GetExitStatus() & 0xff, at: at})
}

func (p *process) drain(ctx context.Context, stdout, stderr uint64) error {
	p.mu.Lock()
	streams := p.streams
	p.mu.Unlock()
	return streams.Drain(ctx, stdout, stderr)
}

// exited records and publishes a process's end. Init's ends the VM.
func (s *Service) exited(c *container, p *process, e exit) {
	id := p.exec
	if p == c.init {
		id = c.id
		// Whatever ran beside init has been killed with its PID namespace.
		for _, other := range c.all() {
			if other != p && other.current() == running {
				s.exited(c, other, exit{status: killed, at: e.at})
			}
		}
	}
	if !p.stop(e) {
		return
	}
	s.events.send(runtimetypes.TaskExitEventTopic, &events.TaskExit{
		ContainerID: c.id, ID: id, Pid: c.pid(), ExitStatus: e.status, ExitedAt: timestamp(e.at),
	})
	if p == c.init {
		go s.tearDown(c)
	}
}

// watch tells of the end of every process when the VM ends under them.
func (s *Service) watch(c *container) {
	<-c.sandbox.Done()
	if c.init.current() != stopped {
		log.G(s.ctx).WithField("container", c.id).WithError(c.sandbox.Cause()).Error("the virtual machine ended under its container")
		s.exited(c, c.init, exit{status: killed, at: time.Now()})
	}
}

// tearDown ends the VM after its container.
func (s *Service) tearDown(c *container) {
	defer close(c.torn)
	if err := errors.Join(c.sandbox.Close(s.ctx), c.unmountRootfs()); err != nil {
		log.G(s.ctx).WithError(err).WithField("container", c.id).Error("something of the sandbox is left")
	}
	log.G(s.ctx).WithFields(c.closing()).Info("sandbox closed")
	for _, p := range c.all() {
		p.closeStreams()
	}
}
