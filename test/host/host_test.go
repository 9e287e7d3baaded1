// Package host tests what a person does who has Docker already: "make install"
// on a host whose Docker and containers run, with containerd 1.7, the older of
// the two that are supported. It holds the test and no code; build-root makes
// the host's file system, and test/engine runs it.
package host

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// machine is a host with a Docker of its own.
type machine struct {
	t    *testing.T
	repo string
	env  []string
}

// up starts the host; it goes with everything on it when the test ends.
func up(t *testing.T) machine {
	t.Helper()
	if os.Getenv("NANOCLAW_E2E") != "1" {
		t.Skip("needs root: make guest, then NANOCLAW_E2E=1 go test ./test/host")
	}
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	root, err := exec.Command("./build-root").Output()
	if err != nil {
		t.Fatalf("build-root: %v", err)
	}
	m := machine{t: t, repo: repo, env: append(os.Environ(),
		"NANOCLAW_ENGINE=nanoclaw-host",
		"NANOCLAW_ENGINE_ROOT="+strings.TrimSpace(string(root)),
		"NANOCLAW_ENGINE_ETC="+filepath.Join(repo, "test/host/etc"))}
	t.Cleanup(func() {
		if _, err := m.command(repo+"/test/engine/down", "--purge"); err != nil {
			t.Error(err)
		}
	})
	if _, err := m.command(repo + "/test/engine/up"); err != nil {
		t.Fatal(err)
	}
	return m
}

// command runs a program and returns what it printed, both streams; a failure has that in it.
func (m machine) command(name string, args ...string) (string, error) {
	m.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env, cmd.Dir = m.env, m.repo
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out.String())
	}
	return out.String(), nil
}

// try runs a command on the host, where the clone has the path that it has here.
func (m machine) try(args ...string) (string, error) {
	m.t.Helper()
	out, err := m.command(m.repo+"/test/engine/enter", args...)
	return strings.TrimSpace(out), err
}

func (m machine) run(args ...string) string {
	m.t.Helper()
	out, err := m.try(args...)
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

func (m machine) want(part string, args ...string) {
	m.t.Helper()
	if out := m.run(args...); !strings.Contains(out, part) {
		m.t.Errorf("%s: no %q in %q", strings.Join(args, " "), part, out)
	}
}

func TestInstallBesideRunningDocker(t *testing.T) {
	m := up(t)
	m.want("1.7.", "containerd", "--version")
	if out, err := m.try("docker", "run", "--rm", "--runtime", "nanoclaw", "busybox", "true"); err == nil {
		t.Fatalf("the runtime is there before it was installed: %s", out)
	}
	m.run("docker", "run", "-d", "--name", "before", "busybox", "sleep", "3600")
	pid := m.run("docker", "inspect", "-f", "{{.State.Pid}}", "before")
	engine := m.run("cat", "/run/docker.pid")

	for range 2 { // the second time changes nothing
		m.want("Docker has read its configuration again", "scripts/install")
	}
	m.want("nanoclaw", "docker", "info", "-f", "{{json .Runtimes}}")
	m.want("other", "docker", "info", "-f", "{{json .Runtimes}}")
	m.want("owner=somebody", "docker", "info", "-f", "{{json .Labels}}")
	if now := m.run("cat", "/run/docker.pid"); now != engine {
		t.Errorf("Docker was restarted: pid %s, before %s", now, engine)
	}
	if now := m.run("docker", "inspect", "-f", "{{.State.Pid}}", "before"); now != pid {
		t.Errorf("the container that ran was disturbed: pid %s, before %s", now, pid)
	}

	// As delivered, emulation is no isolation and is refused, unless this machine has a KVM that boots.
	out, err := m.try("docker", "run", "--rm", "--runtime", "nanoclaw", "busybox", "true")
	if err != nil && !strings.Contains(out, "allow_emulation") {
		t.Fatalf("the refusal does not say what to do: %s", out)
	}
	m.run("sed", "-i", "s/^allow_emulation: false/allow_emulation: true/", "/etc/nanoclaw/config.yaml")
	m.want("nanoclaw", "docker", "run", "--rm", "--runtime", "nanoclaw", "busybox", "uname", "-r")

	m.run("docker", "run", "-d", "--name", "vm", "--runtime", "nanoclaw", "busybox", "sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done")
	m.want("from exec", "docker", "exec", "vm", "echo", "from exec")
	m.want("up", "docker", "logs", "vm")
	m.run("docker", "stop", "vm")
	m.want("7", "docker", "wait", "vm")
	m.run("docker", "rm", "vm")
	if out := m.run("sh", "-c", "ls -A /run/nanoclaw | grep -v ^kvm-verdict || true"); out != "" {
		t.Errorf("left behind in /run/nanoclaw: %s", out)
	}
}
