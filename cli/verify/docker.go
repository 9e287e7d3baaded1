package verify

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
)

// maxOutput bounds what is kept of a command's output, part of which a container
// writes.
const maxOutput = 1 << 20

// bounded keeps the first maxOutput bytes. Its methods are safe for concurrent
// use.
type bounded struct {
	mu   sync.Mutex
	kept []byte
}

// Write is part of io.Writer. It never fails.
func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if room := maxOutput - len(b.kept); room > 0 {
		b.kept = append(b.kept, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

// String is what was kept.
func (b *bounded) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.kept)
}

// docker is a Docker client of one engine. Host is empty for the machine's own.
type docker struct {
	host string
	env  []string
	// said collects all that the client wrote: Docker's own words, among them
	// the texts of its errors.
	said *bounded
}

func (d docker) command(ctx context.Context, args ...string) *exec.Cmd {
	if d.host != "" {
		args = append([]string{"--host", d.host}, args...)
	}
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Env = d.env
	return cmd
}

// output runs the client and returns what it wrote to standard output and to
// standard error.
func (d docker) output(ctx context.Context, args ...string) (out, errOut string, err error) {
	var stdout, stderr bounded
	cmd := d.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	if d.said != nil {
		_, _ = d.said.Write([]byte(stderr.String())) // never fails
	}
	if err != nil {
		err = fmt.Errorf("docker %s: %w: %s", args[0], err, strings.TrimSpace(tail(stderr.String())))
	}
	return stdout.String(), stderr.String(), err
}

// must runs the client for the first line of its output.
func (d docker) must(ctx context.Context, args ...string) (string, error) {
	out, _, err := d.output(ctx, args...)
	return strings.TrimSpace(out), err
}

// attempt runs what may fail, and returns all that it wrote. The error is that
// of a client that could not do its part.
func (d docker) attempt(ctx context.Context, args ...string) (string, error) {
	out, errOut, err := d.output(ctx, args...)
	var exit *exec.ExitError
	// 125 is the client's or the engine's own.
	if errors.As(err, &exit) && exit.ExitCode() != 125 {
		err = nil
	}
	return out + errOut, err
}

func tail(s string) string {
	const most = 2000
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}
