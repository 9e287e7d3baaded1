package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/guestagent/cgroup"
	"github.com/nanoclaw/nanoclaw/guestagent/ocispec"
	"github.com/nanoclaw/nanoclaw/guestagent/stdio"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// undoTime bounds what is done to take a failed Create back.
const undoTime = 30 * time.Second

// create makes the container. It leaves nothing when it fails.
func (c *Container) create(ctx context.Context, req *agent.CreateRequest) (pid int, err error) {
	var undo []func()
	defer func() {
		if err != nil {
			c.end()
			for i := len(undo) - 1; i >= 0; i-- {
				undo[i]()
			}
		}
	}()

	if err := validateStdio(req.GetStdio()); err != nil {
		return 0, err
	}
	spec, dropped, err := ocispec.Container(req.GetSpec(), ocispec.Guest{
		CgroupPath:       c.group.Path(),
		NetworkNamespace: c.cfg.NetworkNamespace,
		Swap:             cgroup.LimitsSwap(),
		Terminal:         req.GetStdio().GetTerminal(),
	})
	if err != nil {
		return 0, err
	}
	logDropped(ctx, c.id, dropped)
	if err := checkSources(c.cfg.Share, ocispec.Sources(spec)); err != nil {
		return 0, err
	}

	if c.bundle, err = bundleDir(c.cfg.Dir, c.id); err != nil {
		return 0, fmt.Errorf("make the bundle: %w", err)
	}
	undo = append(undo, func() { _ = os.RemoveAll(c.bundle) })
	if req.GetExec() != nil || req.GetRefusals() {
		r, err := shareRefusals(c.bundle, spec)
		if err != nil {
			return 0, err
		}
		c.mu.Lock()
		c.refusals = r
		c.mu.Unlock()
		undo = append(undo, r.close)
	}
	if err := shareFiles(c.bundle, spec, req.GetFiles()); err != nil {
		return 0, err
	}
	if err := writeSpec(c.bundle, spec); err != nil {
		return 0, fmt.Errorf("write the bundle: %w", err)
	}

	gate, err := c.loadGate(req.GetExec())
	if err != nil {
		return 0, err
	}
	undo = append(undo, func() { _ = gate.Close() })
	c.mu.Lock()
	c.gate = gate
	c.mu.Unlock()

	io, err := stdio.Open(ctx, c.cfg.Streams, req.GetStdio(), int(spec.Process.User.UID), int(spec.Process.User.GID))
	if err != nil {
		return 0, err
	}
	if c.gated() {
		io.Hold()
	}
	l, err := open(io, c.cfg.TerminalDir)
	if err != nil {
		return 0, err
	}
	undo = append(undo, l.close)

	expect := c.cfg.Reaper.Expect()
	defer expect.Close()
	var mounts *hold
	undo = append(undo, func() {
		ctx, cancel := context.WithTimeout(context.Background(), undoTime)
		defer cancel()
		if err := c.cfg.Runtime.Delete(ctx, c.id, c.bundle); err != nil {
			log.G(ctx).WithError(err).Warnf("container %.12s: take back", c.id)
		}
		if mounts != nil {
			mounts.release()
		}
	})
	if pid, err = c.cfg.Runtime.Create(ctx, c.id, c.bundle, io, consoleOf(l)); err != nil {
		return 0, err
	}
	child := expect.Claim(pid)
	if mounts, err = holdMounts(pid, c.cfg.Share); err != nil {
		return 0, err
	}
	if err := l.carry(ctx); err != nil {
		return 0, err
	}
	// Now the container's mounts are there, and none of its programs has run.
	if err := gate.Arm(c.group.Dir(), pid); err != nil {
		return 0, err
	}
	if err := gate.Check(spec.Process.Args, spec.Process.Env, spec.Process.Cwd); err != nil {
		return 0, err
	}
	p := newProcess(child, io)
	c.mu.Lock()
	c.init, c.mounts, c.state = p, mounts, created
	c.mu.Unlock()
	c.adopt(p, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.state != deleted {
			c.state = stopped
		}
	})
	return pid, nil
}

// Exec starts one more process in the running container and returns its PID.
func (c *Container) Exec(ctx context.Context, req *agent.ExecRequest) (pid int, err error) {
	id := req.GetExec()
	if err := checkID("exec", id); err != nil {
		return 0, err
	}
	if err := validateStdio(req.GetStdio()); err != nil {
		return 0, err
	}
	spec, dropped, err := ocispec.Process(req.GetProcess(), req.GetStdio().GetTerminal())
	if err != nil {
		return 0, err
	}
	logDropped(ctx, c.id, dropped)
	if err := c.reserveExec(id); err != nil {
		return 0, err
	}
	var p *process
	defer func() {
		if p == nil {
			c.settleExec(id, nil)
		}
	}()

	ctx, cancel := c.bound(ctx)
	defer cancel()
	io, err := stdio.Open(ctx, c.cfg.Streams, req.GetStdio(), int(spec.User.UID), int(spec.User.GID))
	if err != nil {
		return 0, err
	}
	if c.gated() {
		io.Hold()
	}
	l, err := open(io, c.cfg.TerminalDir)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			l.close()
		}
	}()

	c.op.RLock()
	defer c.op.RUnlock()
	// A frozen group would freeze crun in it.
	if err := c.require(running); err != nil {
		return 0, err
	}
	if err := c.theGate().Check(spec.Args, spec.Env, spec.Cwd); err != nil {
		return 0, err
	}
	expect := c.cfg.Reaper.Expect()
	defer expect.Close()
	if pid, err = c.cfg.Runtime.Exec(ctx, c.id, c.bundle, "exec-"+id, spec, io, consoleOf(l)); err != nil {
		return 0, err
	}
	child := expect.Claim(pid)
	if err := l.carry(ctx); err != nil {
		_ = child.Signal(unix.SIGKILL)
		return 0, err
	}
	p = newProcess(child, io)
	// Before its end is waited for, as it is told of what it was refused.
	c.settleExec(id, p)
	c.adopt(p, func() {})
	return pid, nil
}

// reserveExec takes the id and a place.
func (c *Container) reserveExec(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.requireLocked(running); err != nil {
		return err
	}
	if _, ok := c.execs[id]; ok {
		return fmt.Errorf("exec %s of container %s: %w", id, c.id, errdefs.ErrAlreadyExists)
	}
	if len(c.execs)+len(c.carrying) >= maxExecs {
		return fmt.Errorf("container %s has %d execs: %w", c.id, maxExecs, errdefs.ErrResourceExhausted)
	}
	c.execs[id] = nil
	return nil
}

// settleExec makes the exec known, or gives its id back when there is none.
func (c *Container) settleExec(id string, p *process) {
	c.mu.Lock()
	if p == nil {
		delete(c.execs, id)
	} else {
		c.execs[id] = p
	}
	early := c.early
	c.early = nil
	c.mu.Unlock()
	for _, r := range early {
		c.tell(r)
	}
}

func validateStdio(s *agent.Stdio) error {
	if err := stdio.Validate(s); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

func writeSpec(bundle string, spec *specs.Spec) error {
	raw, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(bundle, "config.json"), raw, 0o600)
}

// checkSources refuses a source that is reached through a link: it would lead
// out of the share, to a file of the guest.
func checkSources(share string, paths []string) error {
	root, err := unix.Open(share, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the share: %w", err)
	}
	defer func() { _ = unix.Close(root) }()
	for _, p := range paths {
		rel := strings.TrimPrefix(p, share+"/")
		fd, err := unix.Openat2(root, rel, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
		})
		if err != nil {
			// Not with the system's words: Docker would take them for the program's.
			var errno unix.Errno
			errors.As(err, &errno)
			return fmt.Errorf("source %s is missing in the share or reached by a link (%s): %w",
				rel, unix.ErrnoName(errno), errdefs.ErrFailedPrecondition)
		}
		_ = unix.Close(fd)
	}
	return nil
}
