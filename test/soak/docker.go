package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// hung is how long one command of Docker's may take. A VM by emulation, beside
// three others, needs most of a minute to boot on a busy machine.
const hung = 3 * time.Minute

// docker runs the Docker client inside the engine and returns what it wrote.
func (s *soak) docker(args ...string) (string, error) {
	return s.inside(append([]string{"docker"}, args...)...)
}

// inside runs a command inside the engine.
func (s *soak) inside(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), hung)
	defer cancel()
	var stderr strings.Builder
	cmd := exec.CommandContext(ctx, s.engine.Enter, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil {
		err = fmt.Errorf("it has not ended within %s", hung)
	}
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("%s: %w: %s%s", strings.Join(args, " "), err, text, strings.TrimSpace(stderr.String()))
	}
	return text, nil
}

// expect runs a Docker command that must write just that.
func (s *soak) expect(want string, args ...string) error {
	got, err := s.docker(args...)
	if err == nil && got != want {
		err = fmt.Errorf("docker %s wrote %q, not %q", strings.Join(args, " "), got, want)
	}
	return err
}
