package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/errdefs"
	runc "github.com/containerd/go-runc"
	"github.com/containerd/log"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/guestagent/cgroup"
	"github.com/nanoclaw/nanoclaw/guestagent/ocispec"
	"github.com/nanoclaw/nanoclaw/guestagent/processes"
	"golang.org/x/sys/unix"
)

// state is where a container is in its life.
type state string

const (
	creating state = "creating"
	created  state = "created"
	running  state = "running"
	paused   state = "paused"
	stopped  state = "stopped"
	deleted  state = "deleted"
)

// Container is one container.
type Container struct {
	id     string
	cfg    Config
	group  cgroup.Group
	bundle string
	// life ends when the container is being deleted, and with it what crun
	// still does for it.
	life context.Context
	end  context.CancelFunc

	// op is held while crun changes the container, and shared by execs.
	op sync.RWMutex

	notes notes
	// refusals is set before there is a gate; nil where there are no rules, or no
	// place.
	refusals *refusals

	mu    sync.Mutex
	state state
	// gate is set before anything of the container runs.
	gate   Gate
	mounts *hold
	init   *process
	// execs are those that were not waited for yet; nil is one being started.
	execs map[string]*process
	// early are refusals that an exec which is being started may have caused.
	early []untold
	// carrying are the processes whose streams are open: a descendant may write
	// after its process was forgotten.
	carrying map[*process]struct{}
}

func newContainer(cfg Config, id string) *Container {
	life, end := context.WithCancel(context.Background())
	return &Container{
		id:       id,
		cfg:      cfg,
		group:    cgroup.ForContainer(id),
		life:     life,
		end:      end,
		state:    creating,
		execs:    make(map[string]*process),
		carrying: make(map[*process]struct{}),
	}
}

// bound returns ctx, ended also by the container's own end.
func (c *Container) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.life, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// setState moves the container from one of the states from to another.
func (c *Container) setState(to state, from ...state) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.requireLocked(from...); err != nil {
		return err
	}
	c.state = to
	return nil
}

func (c *Container) require(states ...state) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requireLocked(states...)
}

func (c *Container) requireLocked(states ...state) error {
	for _, s := range states {
		if c.state == s {
			return nil
		}
	}
	return fmt.Errorf("container %s is %s: %w", c.id, c.state, errdefs.ErrFailedPrecondition)
}

func logDropped(ctx context.Context, id string, dropped ocispec.Dropped) {
	for _, d := range dropped {
		log.G(ctx).Warnf("container %.12s: left out %s", id, d)
	}
}

// Start starts the container's program.
func (c *Container) Start(ctx context.Context) error {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	c.op.Lock()
	defer c.op.Unlock()
	if err := c.require(created); err != nil {
		return err
	}
	if err := c.cfg.Runtime.Start(ctx, c.id, c.bundle); err != nil {
		return err
	}
	// It may have run to its end by now.
	if err := c.setState(running, created); err != nil && c.require(stopped) != nil {
		return err
	}
	return nil
}

// Pause freezes the container's processes.
func (c *Container) Pause(ctx context.Context) error {
	return c.freeze(ctx, c.pause, running, paused)
}

// pauseTime bounds how long processes may take to stop. One that waits for the
// share in the kernel stops only then.
const pauseTime = 10 * time.Second

// pause has the processes frozen and thaws them when not all of them stop.
func (c *Container) pause(ctx context.Context, id, bundle string) error {
	if err := c.cfg.Runtime.Pause(ctx, id, bundle); err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, pauseTime)
	defer cancel()
	err := c.group.Frozen(waiting)
	if err == nil {
		return nil
	}
	return errors.Join(fmt.Errorf("pause container %s: %w", id, err), c.cfg.Runtime.Resume(ctx, id, bundle))
}

// Resume thaws them.
func (c *Container) Resume(ctx context.Context) error {
	return c.freeze(ctx, c.cfg.Runtime.Resume, paused, running)
}

func (c *Container) freeze(ctx context.Context, call func(context.Context, string, string) error, from, to state) error {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	c.op.Lock()
	defer c.op.Unlock()
	if err := c.require(from); err != nil {
		return err
	}
	if err := call(ctx, c.id, c.bundle); err != nil {
		return err
	}
	return c.setState(to, from)
}

// Update sets the container's limits from an OCI resources object.
func (c *Container) Update(ctx context.Context, resources []byte) error {
	limits, dropped, err := ocispec.Resources(resources, cgroup.LimitsSwap())
	if err != nil {
		return err
	}
	logDropped(ctx, c.id, dropped)
	ctx, cancel := c.bound(ctx)
	defer cancel()
	c.op.Lock()
	defer c.op.Unlock()
	if err := c.require(created, running, paused); err != nil {
		return err
	}
	return c.cfg.Runtime.Update(ctx, c.id, c.bundle, limits)
}

// Stat reads the container's counters.
func (c *Container) Stat() (*stats.Metrics, error) {
	if err := c.require(created, running, paused); err != nil {
		return nil, err
	}
	return c.group.Stat()
}

// Wait returns how the exec of that id, or init if it is empty, has ended, once
// it has. An exec is forgotten with the first answer.
func (c *Container) Wait(ctx context.Context, exec string) (Result, error) {
	p, err := c.process(exec)
	if err != nil {
		return Result{}, err
	}
	result, err := p.wait(ctx)
	if err != nil {
		return Result{}, err
	}
	if exec != "" {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.execs[exec] == p {
			delete(c.execs, exec)
		}
	}
	return result, nil
}

func (c *Container) process(exec string) (*process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.init
	if exec != "" {
		p = c.execs[exec]
	}
	if p == nil {
		return nil, fmt.Errorf("process %.140q of container %s: %w", exec, c.id, errdefs.ErrNotFound)
	}
	return p, nil
}

// Kill sends a signal to the exec of that id, or to init if it is empty, or to
// every process of the container.
func (c *Container) Kill(exec string, sig uint32, all bool) error {
	if sig < 1 || sig > 64 {
		return fmt.Errorf("signal %d is not one: %w", sig, errdefs.ErrInvalidArgument)
	}
	p, err := c.process(exec)
	if err != nil {
		return err
	}
	if !all {
		return p.signal(unix.Signal(sig))
	}
	if exec != "" {
		return fmt.Errorf("all processes of one exec cannot be told apart: %w", errdefs.ErrInvalidArgument)
	}
	if c.require(stopped) == nil {
		return fmt.Errorf("%w: %w", os.ErrProcessDone, errdefs.ErrNotFound)
	}
	return c.group.SignalAll(unix.Signal(sig))
}

// Resize sets the size of a process's terminal.
func (c *Container) Resize(exec string, width, height uint32) error {
	const most = 1<<16 - 1
	if width > most || height > most {
		return fmt.Errorf("a terminal of %d by %d: %w", width, height, errdefs.ErrInvalidArgument)
	}
	p, err := c.process(exec)
	if err != nil {
		return err
	}
	if err := p.io.Resize(uint16(width), uint16(height)); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// Processes lists the container's processes, at most as many as the protocol has
// room for, and how many there are beside them.
func (c *Container) Processes() (list []*agent.Process, more int, err error) {
	pids, err := c.group.Processes()
	if err != nil {
		return nil, 0, err
	}
	execs := make(map[int]string)
	c.mu.Lock()
	for id, p := range c.execs {
		if p != nil {
			execs[p.child.PID()] = id
		}
	}
	c.mu.Unlock()
	list, more = processes.List(pids, execs)
	return list, more, nil
}

// adopt begins to watch a process that was started. onExit is called when it
// has exited.
func (c *Container) adopt(p *process, onExit func()) {
	c.mu.Lock()
	c.carrying[p] = struct{}{}
	c.mu.Unlock()
	go func() {
		p.watch(func() bool {
			// Why it ended may be among what was refused to it.
			c.theGate().Settle()
			p.io.Release()
			onExit()
			return c.group.OOMKilled()
		})
		p.io.Wait()
		p.io.Close()
		close(p.carried)
		c.mu.Lock()
		delete(c.carrying, p)
		c.mu.Unlock()
	}()
}

// consoleOf returns the socket as crun's options want it: nil without one.
func consoleOf(l *launch) runc.ConsoleSocket {
	if l.console == nil {
		return nil
	}
	return l.console
}

// deleteGrace is how long the last output of a container's processes may take
// to reach the host when it is deleted.
const deleteGrace = 2 * time.Second

func (c *Container) delete(ctx context.Context) error {
	if err := c.require(created, stopped); err != nil {
		return err
	}
	// An exec that crun is busy with has no container any more.
	c.end()
	c.op.Lock()
	defer c.op.Unlock()
	if err := c.require(created, stopped); err != nil {
		return err
	}
	if err := c.cfg.Runtime.Delete(ctx, c.id, c.bundle); err != nil {
		return err
	}
	c.mu.Lock()
	open := make([]*process, 0, len(c.carrying))
	for p := range c.carrying {
		open = append(open, p)
	}
	c.state = deleted
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, deleteGrace)
	defer cancel()
	for _, p := range open {
		select {
		case <-p.carried:
		case <-ctx.Done():
			p.io.Close()
		}
	}
	c.mounts.release()
	err := c.theGate().Close()
	c.refusals.close()
	return errors.Join(err, os.RemoveAll(c.bundle))
}

// gated reports whether there is a gate that has something to say to the
// container's users.
func (c *Container) gated() bool {
	_, open := c.theGate().(openGate)
	return !open
}

func (c *Container) theGate() Gate {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gate
}
