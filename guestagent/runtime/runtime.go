// Package runtime runs crun.
//
// It promises that no call outlives its deadline, that each error holds crun's
// own message, and that a program that cannot be started is told in the words
// by which Docker chooses its exit code. It does not keep what containers
// there are.
package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	runc "github.com/containerd/go-runc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// deadline bounds one call of crun.
const deadline = 60 * time.Second

// Stdio gives a command the descriptors of the process it starts.
type Stdio interface {
	Set(cmd *exec.Cmd)
}

// Runtime is crun with one state folder.
type Runtime struct {
	command string
	root    string
}

// Config says where crun is and how it runs.
type Config struct {
	// Command is crun's path.
	Command string
	// Root is where it keeps its state.
	Root string
}

// New returns the Runtime that c describes. The monitor of go-runc must have
// been set by then, by the process that reaps.
func New(c Config) *Runtime {
	return &Runtime{command: c.Command, root: c.Root}
}

// with returns crun's calls, logging to the file of that name.
func (r *Runtime) with(logFile string) *runc.Runc {
	return &runc.Runc{
		Command:   r.command,
		Root:      r.root,
		Log:       logFile,
		LogFormat: runc.JSON,
		ExtraArgs: []string{"--cgroup-manager=cgroupfs"},
	}
}

// Create creates the container of that id from bundle and returns its init's
// PID. With a terminal, console is where its controlling side is sent, and is
// nil otherwise.
func (r *Runtime) Create(ctx context.Context, id, bundle string, stdio Stdio, console runc.ConsoleSocket) (int, error) {
	pidFile := filepath.Join(bundle, "init.pid")
	err := r.call(ctx, "create", filepath.Join(bundle, "create.log"), func(ctx context.Context, c *runc.Runc) error {
		return c.Create(ctx, id, bundle, &runc.CreateOpts{IO: descriptors{Stdio: stdio}, PidFile: pidFile, ConsoleSocket: console})
	})
	if err != nil {
		return 0, err
	}
	return readPID(pidFile)
}

// Start starts the created container's program.
func (r *Runtime) Start(ctx context.Context, id, bundle string) error {
	return r.call(ctx, "start", filepath.Join(bundle, "start.log"), func(ctx context.Context, c *runc.Runc) error {
		return c.Start(ctx, id)
	})
}

// Exec starts one more process and returns its PID. Its files are made in dir
// under name.
func (r *Runtime) Exec(ctx context.Context, id, dir, name string, p *specs.Process, stdio Stdio, console runc.ConsoleSocket) (int, error) {
	pidFile := filepath.Join(dir, name+".pid")
	defer func() { _ = os.Remove(pidFile) }()
	err := r.call(ctx, "exec", filepath.Join(dir, name+".log"), func(ctx context.Context, c *runc.Runc) error {
		return c.Exec(ctx, id, *p, &runc.ExecOpts{IO: descriptors{Stdio: stdio}, PidFile: pidFile, ConsoleSocket: console, Detach: true})
	})
	if err != nil {
		return 0, err
	}
	return readPID(pidFile)
}

// Pause freezes the container's processes.
func (r *Runtime) Pause(ctx context.Context, id, bundle string) error {
	return r.call(ctx, "pause", filepath.Join(bundle, "pause.log"), func(ctx context.Context, c *runc.Runc) error {
		return c.Pause(ctx, id)
	})
}

// Resume thaws them.
func (r *Runtime) Resume(ctx context.Context, id, bundle string) error {
	return r.call(ctx, "resume", filepath.Join(bundle, "resume.log"), func(ctx context.Context, c *runc.Runc) error {
		return c.Resume(ctx, id)
	})
}

// Update sets the container's limits.
func (r *Runtime) Update(ctx context.Context, id, bundle string, limits *specs.LinuxResources) error {
	return r.call(ctx, "update", filepath.Join(bundle, "update.log"), func(ctx context.Context, c *runc.Runc) error {
		return c.Update(ctx, id, limits)
	})
}

// Delete removes the container and kills what still runs of it. A container
// that crun does not know is removed already.
func (r *Runtime) Delete(ctx context.Context, id, bundle string) error {
	return r.call(ctx, "delete", filepath.Join(bundle, "delete.log"), func(ctx context.Context, c *runc.Runc) error {
		return c.Delete(ctx, id, &runc.DeleteOpts{Force: true})
	})
}

func (r *Runtime) call(ctx context.Context, operation, logFile string, f func(context.Context, *runc.Runc) error) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	defer func() { _ = os.Remove(logFile) }()
	err := f(ctx, r.with(logFile))
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("crun's %s did not end in time: %w", operation, ctx.Err())
	}
	if message := lastMessage(logFile); message != "" {
		return explain(operation, message)
	}
	return fmt.Errorf("crun %s: %w", operation, err)
}

// maxLog bounds what is read of crun's log. One call writes a few lines.
const maxLog = 64 << 10

// lastMessage returns the last error in a log of crun's.
func lastMessage(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxLog))
	if err != nil {
		return ""
	}
	return parseLog(raw)
}

// parseLog reads objects until something is not one: crun spreads them over
// several lines, or not, depending on its version.
func parseLog(raw []byte) string {
	last := ""
	for dec := json.NewDecoder(bytes.NewReader(raw)); ; {
		var entry struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
		}
		if dec.Decode(&entry) != nil {
			return last
		}
		if entry.Msg != "" && entry.Level != "warning" && entry.Level != "debug" {
			last = entry.Msg
		}
	}
}

func readPID(path string) (int, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("crun wrote no PID: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("crun wrote %.20q where a PID was expected", raw)
	}
	return pid, nil
}

// descriptors is what go-runc wants of a process's stdio. Only Set matters: the
// other ends of the pipes are not its business.
type descriptors struct {
	Stdio
}

var errNoPipe = errors.New("the pipes are not go-runc's")

func (descriptors) Close() error          { return errNoPipe }
func (descriptors) Stdin() io.WriteCloser { return nil }
func (descriptors) Stdout() io.ReadCloser { return nil }
func (descriptors) Stderr() io.ReadCloser { return nil }
