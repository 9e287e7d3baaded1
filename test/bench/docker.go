package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// engine is the Docker that is measured.
type engine struct {
	// client is the Docker client's command; DOCKER_HOST says which engine.
	client         string
	image, network string
	ctx            context.Context
}

// limit bounds one command: an engine that hangs ends the bench with an error.
// Where a VM is emulated within an emulated machine, one takes minutes.
const limit = 10 * time.Minute

// run is what one "docker run" showed.
type run struct {
	id string
	// began is when the client was started, output when the first byte of the
	// container's output came from it, ended when it had exited.
	began, output, ended time.Time
}

// run runs a container to its end and times the client. Of a command without
// output, output is zero.
func (e *engine) run(runtime string, command ...string) (_ run, err error) {
	dir, err := os.MkdirTemp("", "nanoclaw-bench-")
	if err != nil {
		return run{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	cid := filepath.Join(dir, "cid")
	ctx, cancel := context.WithTimeout(e.ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, e.client, append(e.options("run", runtime, "--rm", "--cidfile", cid), command...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return run{}, err
	}
	r := run{began: time.Now()}
	if err := cmd.Start(); err != nil {
		return run{}, fmt.Errorf("start the Docker client: %w", err)
	}
	switch _, err := io.ReadFull(stdout, make([]byte, 1)); {
	case err == nil:
		r.output = time.Now()
	case !errors.Is(err, io.EOF):
		_ = cmd.Wait()
		return run{}, fmt.Errorf("read the container's output: %w", err)
	}
	_, _ = io.Copy(io.Discard, stdout)
	if err := cmd.Wait(); err != nil {
		return run{}, failed(cmd.Args, err, stderr.String())
	}
	r.ended = time.Now()
	id, err := os.ReadFile(cid)
	r.id = string(id)
	return r, err
}

// options are the client's arguments up to the image.
func (e *engine) options(verb, runtime string, more ...string) []string {
	args := append([]string{verb, "--runtime", runtime}, more...)
	if e.network != "" {
		args = append(args, "--network", e.network)
	}
	return append(args, e.image)
}

// docker runs the client and returns what it printed, without the last newline.
func (e *engine) docker(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(e.ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, e.client, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", failed(cmd.Args, err, stderr.String())
	}
	return strings.TrimRight(string(out), "\n"), nil
}

func failed(args []string, err error, stderr string) error {
	return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr))
}

// sleeper is the command of a container that does nothing. Its length tells its
// process from others.
var sleeper = []string{"sleep", "86397"}

// start starts a container that sleeps.
func (e *engine) start(runtime string, more ...string) (id string, err error) {
	return e.docker(append(e.options("run", runtime, append([]string{"-d"}, more...)...), sleeper...)...)
}

// exec times "docker exec … true".
func (e *engine) exec(id string) (time.Duration, error) {
	began := time.Now()
	_, err := e.docker("exec", id, "true")
	return time.Since(began), err
}

// remove ends and removes a container, also of a bench that was interrupted.
func (e *engine) remove(id string) error {
	still := *e
	still.ctx = context.WithoutCancel(e.ctx)
	_, err := still.docker("rm", "-f", id)
	return err
}
