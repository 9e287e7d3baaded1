package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"

	"github.com/nanoclaw/nanoclaw/test/internal/remains"
)

// What is killed.
const (
	partShim       = "shim"
	partVMM        = "VMM"
	partVirtiofsd  = "virtiofsd"
	partContainerd = "containerd"
)

var parts = []string{partShim, partVMM, partVirtiofsd, partContainerd}

// victim chooses what round n kills. The order is by chance, and each part has its
// turn once in as many rounds as there are parts, so that a short run has all.
func victim(seed uint64, n int) string {
	turn := (n - 1) / len(parts)
	order := rand.New(rand.NewPCG(seed, uint64(turn))).Perm(len(parts)) //nolint:gosec // chance is all that is needed
	return parts[order[(n-1)%len(parts)]]
}

// kills does the rounds after the number from, up to the number to.
func (s *soak) kills(ctx context.Context, from, to int) error {
	for n := from + 1; n <= to && ctx.Err() == nil; n++ {
		e := entry{Kind: kindKill, N: n, Victim: victim(s.Seed, n)}
		timed(&e, func() error { return s.kill(&e) })
		s.tell(e)
		if err := errors.Join(s.journal.add(e), s.compare(s.before)); err != nil {
			return err
		}
	}
	return nil
}

// kill kills a part of a running container with SIGKILL.
func (s *soak) kill(e *entry) error {
	id, err := s.docker("run", "-d", "--runtime", "nanoclaw", "-v", "/volume", "busybox", "sleep", "1000")
	if err != nil {
		return err
	}
	if e.Victim == partContainerd {
		err = s.killContainerd(id)
	} else {
		err = s.killPart(e.Victim, id)
	}
	err = errors.Join(err, s.removed(id))
	left, lookErr := s.left(id)
	e.Left = left
	return errors.Join(err, lookErr)
}

// killPart kills a part that the container cannot live without: it is reported as
// exited, and not with 0.
func (s *soak) killPart(part, id string) error {
	pid, err := find(part, id)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill the %s, process %d: %w", part, pid, err)
	}
	status, err := s.docker("wait", id)
	if err == nil && status == "0" {
		err = errors.New("the container is said to have exited with 0")
	}
	return err
}

// killContainerd kills containerd, which the engine starts again: the container
// runs on, and can be entered and killed.
func (s *soak) killContainerd(id string) error {
	if _, err := s.inside("sh", "-c", killAndAwait); err != nil {
		return err
	}
	if err := until(func() error { return s.expect("here", "exec", id, "echo", "here") }); err != nil {
		return err
	}
	if _, err := s.docker("kill", id); err != nil {
		return err
	}
	return s.expect("137", "wait", id)
}

const killAndAwait = `
old=$(cat /run/containerd.keep)
kill -9 "$old"
for i in $(seq 300); do
	[ "$(cat /run/containerd.keep)" != "$old" ] && timeout 10 docker version >/dev/null 2>&1 && timeout 10 ctr version >/dev/null 2>&1 && exit 0
	sleep 0.1
done
echo "containerd did not come back" >&2
exit 1`

// until repeats what dockerd needs a moment for after it has lost containerd.
func until(do func() error) error {
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		if err := do(); err == nil || time.Now().After(limit) {
			return err
		}
	}
}

// find returns the process that is a part of a container.
func find(part, id string) (int, error) {
	processes, err := remains.Processes()
	if err != nil {
		return 0, err
	}
	// Each of them is told who its container is, by one of two names.
	named := func(args string) bool { return strings.Contains(args, id) || strings.Contains(args, remains.Short(id)) }
	for _, p := range processes {
		program, args, _ := strings.Cut(p.Args, " ")
		switch part {
		case partShim:
			if strings.Contains(program, "containerd-shim-nanoclaw-v2") && strings.Contains(args, "-id "+id) {
				return p.PID, nil
			}
		case partVMM:
			if (strings.Contains(program, "qemu-system") || strings.Contains(program, "cloud-hypervisor")) && named(args) {
				return p.PID, nil
			}
		case partVirtiofsd:
			if strings.Contains(program, "virtiofsd") && named(args) {
				return p.PID, nil
			}
		}
	}
	return 0, fmt.Errorf("container %.12s has no process that is its %s", id, part)
}
