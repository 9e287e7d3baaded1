package verify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/nanoclaw/nanoclaw/cli/doctor"
)

// tool is the reserved one, in the image.
const tool = "/nanoclaw-verify-tool"

// Where things are mounted in a container.
const (
	dataAt   = "/nanoclaw-verify-data"
	secretAt = "/nanoclaw-verify-secret"
	memoryAt = "/nanoclaw-verify-memory"
)

// container is one of the scratch run's.
type container struct {
	name string
	// id is the engine's, once it was started.
	id string
	// agent is the one that it runs as; empty: none.
	agent string
	// own is a token in a file of its own, data that file's folder on the host.
	own  token
	data string
	// secret is a token in a file that is mounted into it read-only.
	secret     token
	secretFile string
	// flags are further ones of "docker run".
	flags []string
	// command is a shell script.
	command string
	// asked are the folders and files of the host that were asked for, and whether
	// each is to be writable.
	asked map[string]bool
}

// run is one scratch run.
type run struct {
	*scratch
	findings
	brk   Check
	image string

	toolToken token
	a, b      *container
}

// policyFile reserves the tool for one agent.
const policyFile = `version: 1
tools:
  reserved:
    %s
agents:
  - {name: granted, runtime: sandbox, vm: micro, tools: [reserved], readonly_tools: false}
  - {name: other, runtime: sandbox, vm: micro, tools: [], readonly_tools: false}
`

// prepare makes the policy, the image with the tool, and the host's credential.
func (r *run) prepare(ctx context.Context) error {
	reserved := "exec: [" + tool + "]"
	if r.brk == Tools {
		// A catalog that does not know which program it is.
		reserved = "endpoints: []"
	}
	if err := os.WriteFile(r.config.Policy, fmt.Appendf(nil, policyFile, reserved), 0o600); err != nil {
		return fmt.Errorf("write the scratch policy: %w", err)
	}
	r.toolToken = newToken("TOOL")
	program := filepath.Join(r.files, "tool")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho "+string(r.toolToken)+"\n"), 0o700); err != nil {
		return fmt.Errorf("write the reserved tool: %w", err)
	}
	if err := os.Chmod(program, 0o755); err != nil { //nolint:gosec // it is a program, for everybody in a container
		return fmt.Errorf("write the reserved tool: %w", err)
	}
	const seed = "nanoclaw-verify-seed"
	for _, step := range [][]string{
		{"create", "--name", seed, "--network", "none", r.image, "true"},
		{"cp", program, seed + ":" + tool},
		{"commit", seed, scratchImage},
		{"rm", seed},
	} {
		if _, err := r.must(ctx, step...); err != nil {
			return fmt.Errorf("put the reserved tool into the image: %w", err)
		}
	}
	return r.write(filepath.Join(r.files, "host", "credentials"), r.canary)
}

func (r *run) write(file string, t token) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("make a folder for what is looked for: %w", err)
	}
	if err := os.WriteFile(file, []byte(t+"\n"), 0o600); err != nil {
		return fmt.Errorf("write what is looked for: %w", err)
	}
	return nil
}

// make describes a container, with a file of its own and a secret.
func (r *run) make(name, agent, command string, flags ...string) (*container, error) {
	c := &container{
		name: name, agent: agent, command: command, flags: flags,
		own: newToken("OWN"), data: filepath.Join(r.files, name+"-data"),
		secret: newToken("SECRET"), secretFile: filepath.Join(r.files, name+"-secret", "token"),
	}
	c.asked = map[string]bool{c.data: true, c.secretFile: false}
	return c, errors.Join(r.write(filepath.Join(c.data, "own"), c.own), r.write(c.secretFile, c.secret))
}

// start starts a container as root with every capability: nothing of what is
// checked may depend on less.
func (r *run) start(ctx context.Context, c *container) error {
	args := []string{
		"run", "--detach", "--name", c.name, "--runtime", doctor.RuntimeName, "--network", "none", "--privileged",
		"--volume", c.data + ":" + dataAt, "--volume", c.secretFile + ":" + secretAt + ":ro", "--tmpfs", memoryAt,
	}
	if c.agent != "" {
		args = append(args, "--annotation", "io.nanoclaw.agent="+c.agent)
	}
	args = append(append(args, c.flags...), scratchImage, "sh", "-c", c.command)
	id, err := r.must(ctx, args...)
	if err != nil {
		return fmt.Errorf("start the container %s: %w", c.name, err)
	}
	c.id = id
	return nil
}

// startAll starts containers at once.
func (r *run) startAll(ctx context.Context, all ...*container) error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, c := range all {
		wg.Go(func() { errs[i] = r.start(ctx, c) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// startPair starts the two containers that must not get at each other.
func (r *run) startPair(ctx context.Context) (err error) {
	// A uses its secret, in memory, and exits when it is told to.
	aCommand := fmt.Sprintf("cat %s >%s/used; mkfifo %s/end; ", secretAt, memoryAt, memoryAt)
	if r.brk == Secrets {
		aCommand += fmt.Sprintf("cat %s >/nanoclaw-verify-copy; ", secretAt)
	}
	if r.a, err = r.make("one", "granted", aCommand+"read x <"+memoryAt+"/end"); err != nil {
		return err
	}
	// B keeps files where a container can have some.
	bCommand := fmt.Sprintf("cat %[1]s/own >/nanoclaw-verify-own; cat %[1]s/own >%[2]s/own; sleep 1000", dataAt, memoryAt)
	if r.b, err = r.make("two", "other", bCommand); err != nil {
		return err
	}
	switch r.brk {
	case Files:
		r.a.flags = append(r.a.flags, "--volume", r.b.data+":/nanoclaw-verify-other")
		r.a.asked[r.b.data] = true
	case Mounts:
		// What is asked for here, and not put among what was asked for, is what a
		// shim that mounts too much would do.
		more := filepath.Join(r.files, "more")
		if err := r.write(filepath.Join(more, "file"), newToken("MORE")); err != nil {
			return err
		}
		r.b.flags = append(r.b.flags, "--volume", more+":/nanoclaw-verify-more")
	}
	return r.startAll(ctx, r.a, r.b)
}

// exec runs a shell script in a container and returns all that it wrote.
func (r *run) exec(ctx context.Context, c *container, script string) (string, error) {
	return r.attempt(ctx, "exec", c.name, "sh", "-c", script)
}

// vmm is the process that runs a container's VM.
func (r *run) vmm(ctx context.Context, c *container) (process, error) {
	out, err := r.must(ctx, "inspect", "--format", "{{.State.Pid}}", c.name)
	if err != nil {
		return process{}, err
	}
	pid, err := strconv.Atoi(out)
	if err != nil || pid <= 1 {
		return process{}, fmt.Errorf("docker says that the VM of %s is process %q", c.name, out)
	}
	return process{pid: pid, args: []string{"the VM of " + c.name}}, nil
}

// virtiofsd is the process that gives a container's VM its files.
func (r *run) virtiofsd(c *container) (process, error) {
	all, err := processes("--shared-dir=" + r.vmDir(c.id) + "/")
	if err != nil {
		return process{}, err
	}
	if len(all) == 0 {
		return process{}, fmt.Errorf("the virtiofsd of the container %s is not among the processes of this host", c.name)
	}
	// It has a parent that waits for it and sees the same.
	return all[len(all)-1], nil
}

// has reports whether a container showed a token.
func has(text string, t token) bool { return strings.Contains(text, string(t)) }
