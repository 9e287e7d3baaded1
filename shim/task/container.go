package task

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	"github.com/nanoclaw/nanoclaw/internal/cleanup"
	"github.com/nanoclaw/nanoclaw/shim/audit"
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
	audit      *recording
	// command is what init runs, for the record.
	command *specs.Process
	// unmountRootfs undoes what the shim itself mounted (none under Docker).
	unmountRootfs func() error
	began         time.Time

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
	asked := spec.Annotations[annotations.KeyAgent]
	c.audit, c.command = newRecording(s.ctx, cfg.Audit, id, asked), spec.Process
	defer func() {
		if err != nil {
			c.audit.notCreated(ctx, err)
			c.audit.close()
		}
	}()
	// Before anything is started: a refusal must cost nothing and leave nothing.
	shared, peers := s.sandboxOf(spec)
	if c.policy, err = compile(cfg, id, peers, spec); err != nil {
		return nil, err
	}
	c.audit.Identify(c.policy.Agent, c.policy.Digest())
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
	addFiles := func(sh *share.Share) error {
		sh.Tell(c.audit.mount)
		if guestSpec, err = sh.AddContainer(ctx, id, narrowed, c.policy, root); err != nil {
			return err
		}
		return c.audit.created(ctx, hv, c.policy)
	}
	leave := func() error { return c.sandbox.Leave(context.WithoutCancel(ctx), id) }
	if shared != nil {
		c.sandbox = shared
		if err := c.sandbox.Join(); err != nil {
			return nil, err
		}
		undo.Add("leave the sandbox", leave)
		if err := addFiles(c.sandbox.Share()); err != nil {
			return nil, err
		}
	} else {
		c.sandbox, err = sandbox.Start(ctx, sandbox.Options{
			Namespace: s.namespace, ID: id,
			Config: cfg, Hypervisor: hv, Launcher: s.launcher,
			Spec: narrowed, Policy: c.policy, Agent: c.policy.Agent,
		}, addFiles)
		if err != nil {
			return nil, err
		}
		undo.Add("leave the sandbox", leave)
	}

	streams, err := stdio.Open(ctx, c.sandbox.Agent(), paths, guest.NewStreamID)
	if err != nil {
		return nil, err
	}
	undo.Add("close the container's streams", func() error { streams.Close(); return nil })
	if err := c.createInGuest(ctx, guestSpec, streams); err != nil {
		return nil, err
	}
	c.init.setStreams(streams)
	stop := c.sandbox.Kill
	c.audit.stop.Store(&stop)
	undo.Release()
	return c, nil
}

// sandboxOf returns the sandbox whose network a spec asks for, with the ids of
// the containers in it; nil where it is none of this shim's. --network
// container:X puts a container into X's VM, since two VMs cannot have one
// network.
func (s *Service) sandboxOf(spec *specs.Spec) (*sandbox.Sandbox, []string) {
	i := slices.IndexFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.NetworkNamespace && n.Path != ""
	})
	if i < 0 {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var shared *sandbox.Sandbox
	var peers []string
	for _, c := range s.containers {
		if c.sandbox.HasNetwork(spec.Linux.Namespaces[i].Path) {
			shared, peers = c.sandbox, append(peers, c.id)
		}
	}
	if shared != nil && !slices.Contains(peers, shared.ID()) {
		// The first one is gone, but its hosts and resolv.conf are still theirs.
		peers = append(peers, shared.ID())
	}
	return shared, peers
}

func (c *container) createInGuest(ctx context.Context, spec *specs.Spec, streams *stdio.Set) error {
	document, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	policy, err := json.Marshal(c.policy.ForGuest())
	if err != nil {
		return err
	}
	entropy := make([]byte, 64)
	_, _ = rand.Read(entropy)
	_, err = c.sandbox.Agent().RPC().Create(ctx, &agent.CreateRequest{
		Container: c.id,
		Spec:      document,
		Stdio:     streams.Stdio(),
		Policy:    policy,
		HostTime:  time.Now().UnixNano(),
		Entropy:   entropy,
		Sandbox:   c.id,
	})
	return err
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
	err := func() error {
		if err := c.audit.must(ctx, starting("", c.command)); err != nil {
			return err
		}
		state, err := c.sandbox.Wire(ctx, c.resolvConf)
		if err != nil {
			return err
		}
		_, err = c.sandbox.Agent().RPC().Start(ctx, &agent.StartRequest{Container: c.id, Network: state})
		return err
	}()
	c.init.started(err == nil)
	if err != nil {
		c.audit.note(ctx, ended(c.init, "start-failed", audit.Object{Detail: err.Error()}))
		return err
	}
	s.events.send(runtimetypes.TaskStartEventTopic, &events.TaskStart{ContainerID: c.id, Pid: c.pid()})
	fields := log.Fields{"container": c.id}
	if t := c.sandbox.Timing(); t.VMM.After(c.began) {
		fields["create_ms"] = t.VMM.Sub(c.began).Milliseconds()
		fields["boot_ms"] = t.Agent.Sub(t.VMM).Milliseconds()
		fields["start_ms"] = time.Since(t.Agent).Milliseconds()
	} else {
		fields["joined"] = c.sandbox.ID()
		fields["start_ms"] = time.Since(c.began).Milliseconds()
	}
	log.G(ctx).WithFields(fields).Info("container started")
	go s.await(c, c.init)
	return nil
}

func (s *Service) startExec(ctx context.Context, c *container, p *process) (err error) {
	if err := p.begin(); err != nil {
		return err
	}
	defer func() {
		p.started(err == nil)
		if err != nil {
			c.audit.note(ctx, ended(p, "start-failed", audit.Object{Detail: err.Error()}))
		}
	}()
	if err := c.audit.must(ctx, starting(p.exec, execProcess(p.spec))); err != nil {
		return err
	}
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
	s.exited(c, p, exit{status: r.GetExitStatus() & 0xff, at: at, oom: r.GetOom()})
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
	status := e.status
	c.audit.note(s.ctx, ended(p, "exit", audit.Object{Status: &status, OOM: e.oom}))
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
		c.audit.note(s.ctx, fell(c.sandbox))
		s.exited(c, c.init, exit{status: killed, at: time.Now()})
	}
}

// tearDown takes a container that has ended out of its VM, and ends the VM after
// the last one.
func (s *Service) tearDown(c *container) {
	defer close(c.torn)
	calls := c.sandbox.Agent().Calls()
	if err := errors.Join(c.sandbox.Leave(s.ctx, c.id), c.unmountRootfs()); err != nil {
		log.G(s.ctx).WithError(err).WithField("container", c.id).Error("something of the sandbox is left")
	}
	log.G(s.ctx).WithFields(log.Fields{"container": c.id, "guest_calls": calls}).Info("sandbox closed")
	for _, p := range c.all() {
		p.closeStreams()
	}
}
