// Package remains looks for what containers leave behind on an engine's host. It
// looks from outside of the engine, at what the kernel has of it and at its files,
// and trusts nothing that the engine or the runtime says of themselves.
//
// It finds what it knows to look for: processes, mounts, network namespaces,
// sockets, interfaces, run directories, bundles and cgroups.
package remains

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Patience is how long a VM's traces may outlive "docker rm".
const Patience = 15 * time.Second

// pause is between two looks.
const pause = 200 * time.Millisecond

// Engine is an embedded engine.
type Engine struct {
	// Name is NANOCLAW_ENGINE's value, Enter the path of test/engine/enter.
	Name, Enter string
}

// New returns the engine that NANOCLAW_ENGINE names.
func New(enter string) Engine {
	name := os.Getenv("NANOCLAW_ENGINE")
	if name == "" {
		name = "nanoclaw-engine"
	}
	return Engine{Name: name, Enter: enter}
}

// Short is the name of a container's run directory, for a container of Docker's.
func Short(id string) string {
	sum := sha256.Sum256([]byte("moby/" + id))
	return hex.EncodeToString(sum[:8])
}

// Of lists what the host has of containers, by their ids: processes, mounts, run
// directories, bundles, cgroups.
func (e Engine) Of(containers ...string) ([]string, error) {
	data, err := os.ReadFile(filepath.Join("/run", e.Name, "pid"))
	if err != nil {
		return nil, fmt.Errorf("find the engine: %w", err)
	}
	pid, _, _ := strings.Cut(strings.TrimSpace(string(data)), " ")
	root := filepath.Join("/proc", pid, "root")

	var marks []string
	var left []string
	for _, id := range containers {
		short := Short(id)
		marks = append(marks, id, short)
		for _, path := range []string{"/run/nanoclaw/" + short, "/run/containerd/io.containerd.runtime.v2.task/moby/" + id} {
			if _, err := os.Lstat(root + path); err == nil {
				left = append(left, "folder "+path)
			}
		}
	}
	has := func(s string) bool {
		return slices.ContainsFunc(marks, func(mark string) bool { return strings.Contains(s, mark) })
	}

	processes, err := Processes()
	if err != nil {
		return nil, err
	}
	for _, p := range processes {
		if has(p.Args) {
			left = append(left, fmt.Sprintf("process %d: %.200s", p.PID, p.Args))
		}
	}
	mounts, err := os.ReadFile(filepath.Join("/proc", pid, "mountinfo"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		if has(line) {
			left = append(left, "mount "+line)
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		// Cgroups of others come and go while this looks.
		if err == nil && d.IsDir() && has(d.Name()) {
			left = append(left, "cgroup "+path)
		}
		return nil
	})
	return left, nil
}

// Process is one of the machine's, with its arguments in one line.
type Process struct {
	PID  int
	Args string
}

// Processes lists the machine's processes, those of its engines included.
func Processes() ([]Process, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var list []Process
	for _, file := range files {
		var p Process
		// One that ended meanwhile is none.
		if data, err := os.ReadFile(file); err == nil && len(data) > 0 {
			p.Args = strings.ReplaceAll(string(data), "\x00", " ")
			if _, err := fmt.Sscanf(file, "/proc/%d/cmdline", &p.PID); err != nil {
				return nil, err
			}
			list = append(list, p)
		}
	}
	return list, nil
}

// everything prints one line for each thing of the engine's that a container
// could leave behind. It names no PID: those change.
const everything = `
for f in /proc/[0-9]*/cmdline; do
	args=$(tr '\0' ' ' <$f 2>/dev/null)
	case $args in
	*containerd-shim*|*qemu-system*|*nanoclaw-hide*|*cloud-hypervisor*|*virtiofsd*|*vhost-device*|*docker-proxy*) echo "process $args" ;;
	esac
done
cut -d' ' -f5 /proc/self/mountinfo | grep -v '^/proc/' | sed 's/^/mount /'
for f in /proc/[0-9]*/ns/net; do readlink $f; done 2>/dev/null | sort -u | sed 's/^/namespace /'
grep -aoE '/run/(nanoclaw|containerd/s)/.*' /proc/net/unix | sort -u | sed 's/^/socket /'
ls /sys/class/net | sed 's/^/interface /'
find /run/nanoclaw /run/docker/netns /run/containerd/io.containerd.runtime.v2.task /run/containerd/s -mindepth 1 2>/dev/null | sed 's/^/file /'
find /sys/fs/cgroup -type d -path "*/$(hostname)/*" | sed 's/^/cgroup /'
true`

// All lists everything that the engine has of any container.
func (e Engine) All() ([]string, error) {
	out, err := exec.Command(e.Enter, "sh", "-c", everything).Output()
	if err != nil {
		return nil, fmt.Errorf("list what there is: %w", err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(lines)
	return lines, nil
}

// AllAfterFirst runs a container and removes it, and lists All then. A host's first
// container leaves what is kept on purpose until the host boots anew: the verdict
// on its KVM, a folder of containerd's.
func (e Engine) AllAfterFirst() ([]string, error) {
	docker := func(args ...string) (string, error) {
		out, err := exec.Command(e.Enter, append([]string{"timeout", "10m", "docker"}, args...)...).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("docker %s, for the engine's first container: %w: %q", args[0], err, out)
		}
		return strings.TrimSpace(string(out)), nil
	}
	id, err := docker("run", "-d", "--runtime", "nanoclaw", "busybox", "sleep", "600")
	if err != nil {
		return nil, err
	}
	if _, err := docker("rm", "-f", id); err != nil {
		return nil, err
	}
	left, err := Wait(func() ([]string, error) { return e.Of(id) })
	if err != nil {
		return nil, err
	}
	if len(left) > 0 {
		return nil, fmt.Errorf("left of the engine's first container: %q", left)
	}
	return e.All()
}

// Since lists what the engine has and had not when before was listed.
func (e Engine) Since(before []string) ([]string, error) {
	now, err := e.All()
	if err != nil {
		return nil, err
	}
	return added(before, now), nil
}

// added returns the lines of the sorted list now that are not in before, each as
// often as it is more there.
func added(before, now []string) []string {
	had := map[string]int{}
	for _, line := range before {
		had[line]++
	}
	var more []string
	for _, line := range now {
		if had[line]--; had[line] < 0 {
			more = append(more, line)
		}
	}
	return more
}

// Wait looks until nothing is left, at most for the time that traces may stay.
func Wait(look func() ([]string, error)) ([]string, error) {
	for limit := time.Now().Add(Patience); ; time.Sleep(pause) {
		left, err := look()
		if err != nil || len(left) == 0 || time.Now().After(limit) {
			return left, err
		}
	}
}
