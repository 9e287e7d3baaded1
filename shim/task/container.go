package task

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
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

// vm is a sandbox as the life of its container needs it. *sandbox.Sandbox is one.
type vm interface {
	PID() int
	Agent() *guest.Agent
	Timing() sandbox.Timing
	Info() sandbox.Info
	// Wire joins the VM to the network and says what the guest shall configure.
	Wire(ctx context.Context, resolvConf string) (*agent.NetworkState, error)
	Kill()
	// ID is that of the first container in it, HasNetwork reports whether the
	// network namespace at path is its own, and Share is what it sees of files.
	ID() string
	HasNetwork(path string) bool
	Share() *share.Share
	// NotePolicy writes down a container's policy, for the operator.
	NotePolicy(id string, p *annotations.Policy) error
	// Admits returns an error where a container of that policy cannot be in it.
	Admits(id string, p *annotations.Policy) error
	// Fits returns an error for limits that are above what it has.
	Grow(ctx context.Context, r *specs.LinuxResources) (cpus int, err error)
	// Join counts the container of that bundle in, Leave one out; the last one
	// ends the VM.
	Join(id, bundle string, record func(audit.Entry)) error
	Leave(ctx context.Context, id string) error
	// Done is closed when the VM has ended; End and Cause then say why.
	Done() <-chan struct{}
	End() sandbox.End
	Cause() error
	// LastWords is the end of the guest's console.
	LastWords() string
}

// killed is the exit status of a process whose VM ended under it: 128+SIGKILL,
// as if it had been killed, which is what happened.
const killed = 137

// unknown is the exit status of an exec of which the guest does not say how it
// ended. containerd has the same value for this.
const unknown = 255

const (
	// execGrace is how long the ends of execs may come after that of their
	// container's init, which has killed them.
	execGrace = 2 * time.Second
	// lastWords is how long the output that a VM sent before its end may take
	// to reach a client.
	lastWords = 2 * time.Second
)

// container is one container and the VM it runs in.
type container struct {
	id, bundle string
	init       *process
	sandbox    vm
	policy     *annotations.Policy
	resolvConf string
	audit      *recording
	// command is what init runs, for the record.
	command *specs.Process
	// gated: the guest judges the container's programs.
	gated bool
	// intercept is nil where none of its connections is looked into.
	intercept *interception
	// unmountRootfs undoes what the shim itself mounted (none under Docker).
	unmountRootfs func() error
	began         time.Time
	timing        timing

	// life is held while a process changes its state and while that is recorded
	// and told, so that both come in the order of what they tell. It may wait for
	// the disk, so what is only asked takes mu alone.
	life sync.Mutex

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

	spec, unknown, err := readSpec(bundle)
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
	for _, what := range append(unknown, c.policy.LeftOut(spec)...) {
		log.G(ctx).WithField("container", id).Warn("left out " + what)
	}
	narrowed := c.policy.Apply(spec)

	root := spec.Root.Path
	if !filepath.IsAbs(root) {
		root = filepath.Join(bundle, root)
	}
	if c.unmountRootfs, err = share.MountRootfs(rootfs, root); err != nil {
		return nil, fmt.Errorf("mount the container's root file system: %w", err)
	}
	undo.Add("unmount the root file system", c.unmountRootfs)

	if c.intercept, err = newInterception(cfg, c.policy, root, c.audit.Post); err != nil {
		return nil, err
	}
	// The record has the command as it was asked for.
	process := *narrowed.Process
	process.Env = c.intercept.environment(process.Env)
	narrowed.Process = &process

	gate, err := execGate(c.policy, spec, root)
	if err != nil {
		return nil, err
	}
	c.gated = gate != nil

	hv, err := s.hypervisor(ctx, cfg)
	if err != nil {
		return nil, err
	}
	var guestSpec *specs.Spec
	addFiles := func(sh *share.Share) error {
		if guestSpec, err = sh.AddContainer(ctx, id, narrowed, c.policy, root, c.audit.mount); err != nil {
			return err
		}
		return c.audit.created(ctx, hv, c.policy)
	}
	leave := func() error { return c.sandbox.Leave(context.WithoutCancel(ctx), id) }
	if shared != nil {
		c.sandbox = shared
		if err := c.sandbox.Admits(id, c.policy); err != nil {
			return nil, err
		}
		if err := c.sandbox.Join(id, bundle, c.audit.Post); err != nil {
			return nil, err
		}
		undo.Add("leave the sandbox", leave)
		if err := addFiles(c.sandbox.Share()); err != nil {
			return nil, err
		}
	} else {
		c.sandbox, err = s.startVM(ctx, sandbox.Options{
			Namespace: s.namespace, ID: id, Bundle: bundle,
			Config: cfg, Hypervisor: hv, Launcher: s.launcher,
			Spec: narrowed, Policy: c.policy, Agent: c.policy.Agent, Audit: c.audit.Post,
			Address: s.address, Intercept: c.intercept.interceptor(),
		}, addFiles)
		if err != nil {
			return nil, err
		}
		undo.Add("leave the sandbox", leave)
	}
	c.timing.sandbox = c.sandbox.Timing()

	if err := c.sandbox.NotePolicy(id, c.policy); err != nil {
		return nil, err
	}
	streams, err := stdio.Open(ctx, c.sandbox.Agent(), paths, guest.NewStreamID)
	if err != nil {
		return nil, err
	}
	undo.Add("close the container's streams", func() error { streams.Close(); return nil })
	if err := c.createInGuest(ctx, guestSpec, gate, streams); err != nil {
		return nil, err
	}
	c.timing.created = time.Now()
	c.init.setStreams(streams)
	stop := c.sandbox.Kill
	c.audit.stop.Store(&stop)
	if c.gated {
		go c.follow(s.ctx)
	}
	undo.Release()
	return c, nil
}

// sandboxOf returns the sandbox whose network a spec asks for, with the ids of
// the containers in it; nil where it is none of this shim's. --network
// container:X puts a container into X's VM, since two VMs cannot have one
// network.
func (s *Service) sandboxOf(spec *specs.Spec) (vm, []string) {
	i := slices.IndexFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.NetworkNamespace && n.Path != ""
	})
	if i < 0 {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var shared vm
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

// lostPatience is how long a VM may take to end that has lost its agent. The
// sandbox gives it five seconds to power itself off.
const lostPatience = 10 * time.Second

func (c *container) createInGuest(ctx context.Context, spec *specs.Spec, gate *agent.ExecGate, streams *stdio.Set) error {
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
	reply, err := c.sandbox.Agent().RPC().Create(ctx, &agent.CreateRequest{
		Container: c.id,
		Spec:      document,
		Stdio:     streams.Stdio(),
		Policy:    policy,
		HostTime:  time.Now().UnixNano(),
		Entropy:   entropy,
		Sandbox:   c.id,
		Exec:      gate,
		Refusals:  c.policy.Held().Network.Restricts(),
		Files:     c.intercept.shared(),
	})
	if err != nil {
		return c.explain(ctx, err)
	}
	c.timing.guestSaid(reply)
	return nil
}

// logEnd logs the VM's end with its console, which goes with it.
func (c *container) logEnd(ctx context.Context, err error, message string) {
	log.G(ctx).WithFields(log.Fields{"container": c.id, "console": c.sandbox.LastWords()}).WithError(err).Error(message)
}

// explain adds to the error of a Create that lost the agent why the VM has ended,
// which is all that a person can do something about, and logs it: nobody watches
// the VM yet.
func (c *container) explain(ctx context.Context, err error) error {
	if !errors.Is(err, guest.ErrLost) {
		return err
	}
	select {
	case <-c.sandbox.Done():
		err = fmt.Errorf("%w: %w", err, c.sandbox.Cause())
	case <-time.After(lostPatience):
	case <-ctx.Done():
	}
	c.logEnd(ctx, err, "the virtual machine ended while its container was made")
	return err
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
	c.life.Lock()
	defer c.life.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.init.current() == stopped {
		return fmt.Errorf("container %s has exited: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	if p.exec == "" {
		return fmt.Errorf("an exec without an id: %w", errdefs.ErrInvalidArgument)
	}
	// An exec of the container's own name could not be told from its init.
	if _, ok := c.execs[p.exec]; ok || p.exec == c.id {
		return fmt.Errorf("exec %s: %w", p.exec, errdefs.ErrAlreadyExists)
	}
	c.execs[p.exec] = p
	return nil
}

func (c *container) removeExec(p *process) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.execs[p.exec] != p {
		return fmt.Errorf("exec %s: %w", p.exec, errdefs.ErrNotFound)
	}
	delete(c.execs, p.exec)
	return nil
}

// all returns every process, init last.
func (c *container) all() []*process {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*process, 0, len(c.execs)+1)
	for _, p := range c.execs {
		all = append(all, p)
	}
	return append(all, c.init)
}

// begin claims the right to start p.
func (c *container) begin(p *process) error {
	c.life.Lock()
	defer c.life.Unlock()
	if p != c.init {
		if err := c.requireRunning(); err != nil {
			return err
		}
	}
	return p.begin()
}

// requireRunning refuses what is done to running containers only.
func (c *container) requireRunning() error {
	switch {
	case c.init.current() != running:
		return fmt.Errorf("container %s is not running: %w", c.id, errdefs.ErrFailedPrecondition)
	case c.isPaused():
		return fmt.Errorf("container %s is paused: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// requirePaused refuses what is done to paused containers only.
func (c *container) requirePaused() error {
	if c.init.current() != running || !c.isPaused() {
		return fmt.Errorf("container %s is not paused: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	return nil
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
	if err := c.begin(c.init); err != nil {
		return err
	}
	c.setStart(time.Now())
	err := func() error {
		if err := c.audit.must(ctx, starting("", c.command)); err != nil {
			return err
		}
		state, err := c.sandbox.Wire(ctx, c.resolvConf)
		if err != nil {
			return err
		}
		c.timing.wired = time.Now()
		_, err = c.sandbox.Agent().RPC().Start(ctx, &agent.StartRequest{Container: c.id, Network: state})
		return err
	}()
	if err != nil {
		c.init.failed()
		c.audit.note(ctx, ended(c.init, "start-failed", audit.Object{Detail: err.Error()}))
		return err
	}
	c.timing.started = time.Now()
	if err := s.started(c, c.init, runtimetypes.TaskStartEventTopic, &events.TaskStart{ContainerID: c.id, Pid: c.pid()}); err != nil {
		return err
	}
	s.bound(c)
	vm := c.sandbox.Info()
	fields := c.timing.fields()
	fields["container"] = c.id
	fields["hypervisor"], fields["cpus"], fields["memory_mib"] = vm.Hypervisor, vm.CPUs, vm.Memory>>20
	if c.timing.joined() {
		fields["joined"] = c.sandbox.ID()
	}
	log.G(ctx).WithFields(fields).Info("container started")
	return nil
}

func (s *Service) startExec(ctx context.Context, c *container, p *process) (err error) {
	if err := c.begin(p); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			p.failed()
			c.audit.note(ctx, ended(p, "start-failed", audit.Object{Detail: err.Error()}))
		}
	}()
	if err := c.audit.must(ctx, starting(p.exec, execProcess(p.spec))); err != nil {
		return err
	}
	process, err := c.intercept.process(p.spec)
	if err != nil {
		return err
	}
	streams, err := stdio.Open(ctx, c.sandbox.Agent(), p.paths, guest.NewStreamID)
	if err != nil {
		return err
	}
	if _, err := c.sandbox.Agent().RPC().Exec(ctx, &agent.ExecRequest{
		Container: c.id, Exec: p.exec, Process: process, Stdio: streams.Stdio(),
	}); err != nil {
		streams.Close()
		return err
	}
	p.setStreams(streams)
	return s.started(c, p, runtimetypes.TaskExecStartedEventTopic, &events.TaskExecStarted{
		ContainerID: c.id, ExecID: p.exec, Pid: c.pid(),
	})
}

// started records that a process runs, tells so, and waits for its end from then
// on. It fails where the VM or the container has ended meanwhile.
func (s *Service) started(c *container, p *process, topic string, event any) error {
	c.life.Lock()
	defer c.life.Unlock()
	if !p.started() {
		return fmt.Errorf("container %s has ended while %s was started: %w", c.id, p.name(), errdefs.ErrFailedPrecondition)
	}
	s.events.send(topic, event)
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
		s.unanswered(c, p, err)
		return
	}
	if err := p.drain(ctx, r.GetStdoutBytes(), r.GetStderrBytes()); err != nil {
		log.G(s.ctx).WithError(err).WithField("container", c.id).Warn("output may be incomplete")
	}
	if p == c.init {
		c.farewell(ctx)
		if r.GetOom() {
			s.events.send(runtimetypes.TaskOOMEventTopic, &events.TaskOOM{ContainerID: c.id})
		}
	}
	at := r.GetExitedAt().AsTime()
	// The guest's clock is the guest's word.
	if now := time.Now(); at.After(now) || at.Before(c.began) {
		at = now
	}
	s.exited(c, p, exit{status: r.GetExitStatus() & 0xff, at: at, oom: r.GetOom()})
}

// unanswered ends a process whose end the guest did not tell.
func (s *Service) unanswered(c *container, p *process, err error) {
	var said *guest.Said
	if !errors.As(err, &said) {
		// The VM is gone or going; watch tells of every process.
		return
	}
	log.G(s.ctx).WithError(err).WithField("container", c.id).Errorf("the guest does not say how %s ends", p.name())
	if p == c.init {
		c.sandbox.Kill()
		return
	}
	s.exited(c, p, exit{status: unknown, at: time.Now()})
}

// farewell waits for the ends of the execs, which have been killed with init's
// PID namespace, but not for long.
func (c *container) farewell(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, execGrace)
	defer cancel()
	for _, p := range c.all() {
		if p == c.init || p.current() != running {
			continue
		}
		select {
		case <-p.done:
		case <-ctx.Done():
			return
		}
	}
}

// exited records and tells a process's end. Init's is told last, and ends the VM.
func (s *Service) exited(c *container, p *process, e exit) {
	c.life.Lock()
	defer c.life.Unlock()
	s.end(c, p, e)
}

// end is exited with c.life held.
func (s *Service) end(c *container, p *process, e exit) {
	ends := map[*process]exit{p: e}
	order := []*process{p}
	if p == c.init {
		order = c.all()
		for _, other := range order {
			if other != p {
				ends[other] = exit{status: killed, at: e.at}
			}
		}
	}
	var entries []audit.Entry
	var told []*events.TaskExit
	for _, p := range order {
		e := ends[p]
		was := p.stop(e)
		// Of an exec that never ran there is no end to tell; Docker would take
		// it for the exit code of the failed start.
		if was == stopped || was == created && p != c.init {
			continue
		}
		id := p.exec
		if p == c.init {
			id = c.id
			defer func() { go s.tearDown(c) }()
		}
		entries = append(entries, ended(p, "exit", audit.Object{Status: &e.status, OOM: e.oom}))
		told = append(told, &events.TaskExit{
			ContainerID: c.id, ID: id, Pid: c.pid(), ExitStatus: e.status, ExitedAt: timestamp(e.at),
		})
	}
	if len(told) == 0 {
		return
	}
	c.audit.note(s.ctx, entries...)
	for _, event := range told {
		s.events.send(runtimetypes.TaskExitEventTopic, event)
	}
}

// abandon ends a process that was never started. An exec of that kind is nothing
// yet and leaves with 0, as with runc; a container's init is there, and is killed.
func (s *Service) abandon(c *container, p *process) error {
	c.life.Lock()
	defer c.life.Unlock()
	if p.isStarting() {
		return fmt.Errorf("%s of container %s is being started: %w", p.name(), c.id, errdefs.ErrFailedPrecondition)
	}
	if p.current() == created {
		e := exit{at: time.Now()}
		if p == c.init {
			e.status = killed
		}
		s.end(c, p, e)
	}
	return nil
}

// watch tells of the end of every process when the VM ends under them.
func (s *Service) watch(c *container) {
	<-c.sandbox.Done()
	if c.init.current() == stopped {
		return
	}
	c.logEnd(s.ctx, c.sandbox.Cause(), "the virtual machine ended under its container")
	c.audit.note(s.ctx, fell(c.sandbox))
	// What has arrived of the output is passed on. It ends with the VM.
	ctx, cancel := context.WithTimeout(s.ctx, lastWords)
	defer cancel()
	for _, p := range c.all() {
		if err := p.drain(ctx, math.MaxUint64, math.MaxUint64); err != nil {
			log.G(s.ctx).WithError(err).WithField("container", c.id).Warn("output may be incomplete")
		}
	}
	s.exited(c, c.init, exit{status: killed, at: time.Now()})
}

// tearDown takes a container that has ended out of its VM, and ends the VM after
// the last one.
func (s *Service) tearDown(c *container) {
	defer close(c.torn)
	c.followEnd(s.ctx)
	if err := errors.Join(c.sandbox.Leave(s.ctx, c.id), c.unmountRootfs()); err != nil {
		log.G(s.ctx).WithError(err).WithField("container", c.id).Error("something of the sandbox is left")
	}
	log.G(s.ctx).WithFields(c.closing()).Info("sandbox closed")
	for _, p := range c.all() {
		p.closeStreams()
	}
}
