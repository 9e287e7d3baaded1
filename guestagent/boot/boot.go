// Package boot makes a running system of a kernel that has just started PID 1,
// and ends it.
//
// It knows the VM and nothing of containers. It does not recover: an error
// here means that the VM is of no use, and the caller powers it off.
package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/guestagent/cgroup"
	"golang.org/x/sys/unix"
)

// mount is one line of what is mounted at boot.
type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
	// mode of the folder, which is made where it is missing.
	mode os.FileMode
	// optional: the kernel may lack it.
	optional bool
	// kernel: the kernel may have mounted it already.
	kernel bool
}

const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

var mounts = []mount{
	{source: "proc", target: "/proc", kind: "proc", flags: safe, mode: 0o555},
	{source: "sysfs", target: "/sys", kind: "sysfs", flags: safe, mode: 0o555},
	{source: "devtmpfs", target: "/dev", kind: "devtmpfs", flags: unix.MS_NOSUID, data: "mode=0755", mode: 0o755, kernel: true},
	{source: "devpts", target: "/dev/pts", kind: "devpts", flags: unix.MS_NOSUID | unix.MS_NOEXEC, data: "newinstance,ptmxmode=0666,mode=0620,gid=5", mode: 0o755},
	{source: "shm", target: "/dev/shm", kind: "tmpfs", flags: safe, data: "mode=1777", mode: 0o755},
	{source: "mqueue", target: "/dev/mqueue", kind: "mqueue", flags: safe, mode: 0o755},
	{source: "run", target: "/run", kind: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=0755", mode: 0o755},
	{source: "tmp", target: "/tmp", kind: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=1777", mode: 0o755},
	{source: "cgroup2", target: cgroup.Root, kind: "cgroup2", flags: safe, data: "nsdelegate,memory_recursiveprot", mode: 0o755},
	{source: "securityfs", target: "/sys/kernel/security", kind: "securityfs", flags: safe, mode: 0o755, optional: true},
	{source: "bpf", target: "/sys/fs/bpf", kind: "bpf", flags: safe, data: "mode=0700", mode: 0o700, optional: true},
	// Says how busy the share is.
	{source: "fusectl", target: "/sys/fs/fuse/connections", kind: "fusectl", flags: safe, mode: 0o755, optional: true},
	// With devices: a container may have one of its own image, or /dev/null in
	// a file's place; which it may use, its device rules say.
	{source: agent.ShareTag, target: agent.ShareDir, kind: "virtiofs", mode: 0o700},
}

// links are names in /dev that the kernel does not make. crun opens /dev/stdin.
var links = map[string]string{
	"/dev/fd":     "/proc/self/fd",
	"/dev/stdin":  "/proc/self/fd/0",
	"/dev/stdout": "/proc/self/fd/1",
	"/dev/stderr": "/proc/self/fd/2",
}

// Mount mounts all that a container needs of the system, and the share.
func Mount() error {
	for _, m := range mounts {
		if err := m.do(); err != nil && !m.optional {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.target, err)
		}
	}
	for name, target := range links {
		if err := os.Symlink(target, name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

func (m mount) do() error {
	if err := os.MkdirAll(m.target, m.mode); err != nil {
		return err
	}
	err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data)
	if errors.Is(err, unix.EBUSY) && m.kernel {
		return nil
	}
	return err
}

// Protect keeps the agent out of the reach of containers' limits and the
// kernel's memory killer, and gives what it starts the limits that Docker's
// containers have by default.
func Protect() error {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		return fmt.Errorf("protect the agent: %w", err)
	}
	if err := cgroup.Setup(); err != nil {
		return fmt.Errorf("set up control groups: %w", err)
	}
	// By way of package syscall: it then hands the limit on to children.
	limit := syscall.Rlimit{Cur: 1 << 20, Max: 1 << 20}
	if err := syscall.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise the number of files: %w", err)
	}
	for name, value := range kernelLimits {
		if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0); err != nil {
			return fmt.Errorf("raise the kernel's limit: %w", err)
		}
	}
	return nil
}

// kernelLimits are limits that hold for the whole kernel, so that no container can
// raise them, and that programs run into which run on hosts, where an administrator
// can: watched folders, of which the kernel allows few where there is little
// memory, and mapped areas, by the tens of thousands in databases. What they count
// costs memory, and that is limited.
var kernelLimits = map[string]string{
	"fs/inotify/max_user_watches": "1048576",
	"vm/max_map_count":            "1048576",
}

// Console joins the agent's output to the console, where the kernel could not:
// /dev was empty when it started us.
func Console() error {
	console, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = console.Close() }()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = null.Close() }()
	return errors.Join(
		unix.Dup3(int(null.Fd()), 0, 0),
		unix.Dup3(int(console.Fd()), 1, 0),
		unix.Dup3(int(console.Fd()), 2, 0),
	)
}

// Dirs makes the agent's own folders.
func Dirs(dirs ...string) error {
	for _, d := range dirs {
		if err := os.MkdirAll(filepath.Clean(d), 0o700); err != nil {
			return err
		}
	}
	return nil
}
