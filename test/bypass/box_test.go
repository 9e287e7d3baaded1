package bypass

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/guestagent/execgate"
	"github.com/nanoclaw/nanoclaw/test/bypass/attempts"
)

// boxVariable tells this program that it is to become a container.
const boxVariable = "NANOCLAW_BYPASS_BOX"

const (
	top      = "/sys/fs/cgroup"
	groups   = top + "/containers"
	boxes    = "/run/box"
	store    = boxes + "/.programs"
	boxLimit = 60 * time.Second
)

// box is a container for one attempt: namespaces, a cgroup and files of its
// own, and every capability. It is made in the order in which crun makes one.
type box struct {
	root, group string
}

// prepare makes what the boxes have in common, once.
var prepare = sync.OnceValue(func() error {
	if err := os.MkdirAll(boxes, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", boxes, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := attempts.Store(store, self); err != nil {
		return err
	}
	if err := os.MkdirAll(groups, 0o755); err != nil {
		return err
	}
	for _, dir := range []string{top, groups} {
		if err := os.WriteFile(dir+"/cgroup.subtree_control", []byte("+pids"), 0); err != nil {
			return err
		}
	}
	return nil
})

func newBox(name string) (*box, error) {
	b := &box{root: boxes + "/" + name, group: filepath.Join(groups, name)}
	for _, dir := range []string{b.root, b.group} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(b.group+"/pids.max", []byte("200"), 0); err != nil {
		return nil, err
	}
	if err := attempts.World(b.root, store, name); err != nil {
		return nil, err
	}
	// What is moved to become a root is a mount.
	if err := unix.Mount(b.root, b.root, "", unix.MS_BIND, ""); err != nil {
		return nil, err
	}
	// The kernel notes when a file was changed to some milliseconds.
	time.Sleep(10 * time.Millisecond)
	return b, nil
}

func (b *box) close() error {
	_ = os.WriteFile(b.group+"/cgroup.kill", []byte("1"), 0)
	for range 500 {
		// An attempt may have made groups in its own.
		below, _ := filepath.Glob(b.group + "/*")
		for _, group := range below {
			_ = unix.Rmdir(group)
		}
		if err := unix.Rmdir(b.group); err == nil {
			return errors.Join(unix.Unmount(b.root, unix.MNT_DETACH), os.RemoveAll(b.root))
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("%s still has processes", b.group)
}

// run tries an attempt in the box, behind the gate unless that is nil, and
// returns what it printed.
func (b *box) run(name string, gate *execgate.Gate) (_ string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), boxLimit)
	defer cancel()
	ready, readyChild, err := os.Pipe()
	if err != nil {
		return "", err
	}
	startChild, start, err := os.Pipe()
	if err != nil {
		return "", err
	}
	for _, f := range []*os.File{ready, readyChild, startChild, start} {
		defer func() { _ = f.Close() }()
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "/proc/self/exe", name)
	cmd.Env = []string{boxVariable + "=" + b.root}
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	cmd.ExtraFiles = []*os.File{readyChild, startChild}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	defer func() { _ = cmd.Wait() }()
	_ = readyChild.Close()
	if _, err := io.ReadFull(ready, make([]byte, 1)); err != nil {
		cancel()
		_ = cmd.Wait()
		return "", fmt.Errorf("the container was not made: %s", out.String())
	}
	if err := os.WriteFile(b.group+"/cgroup.procs", fmt.Append(nil, cmd.Process.Pid), 0); err != nil {
		return "", err
	}
	if gate != nil {
		if err := gate.Arm(b.group, cmd.Process.Pid); err != nil {
			cancel()
			return "", err
		}
		defer func() { _ = gate.Disarm() }()
	}
	if _, err := start.Write([]byte{1}); err != nil {
		return "", err
	}
	_ = cmd.Wait()
	return out.String(), nil
}

// becomeBox is the child's side of run: it makes the container around itself
// and becomes its program.
func becomeBox(root string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	for _, m := range []struct{ kind, at string }{{"proc", "proc"}, {"sysfs", "sys"}, {"tmpfs", "tmp"}, {"tmpfs", "dev"}} {
		if err := unix.Mount(m.kind, filepath.Join(root, m.at), m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	if err := unix.Mknod(filepath.Join(root, "dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		return err
	}
	// An initramfs cannot be pivoted away from.
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if _, err := os.NewFile(3, "ready").Write([]byte{1}); err != nil {
		return err
	}
	if _, err := io.ReadFull(os.NewFile(4, "start"), make([]byte, 1)); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return err
	}
	for fd := 3; fd < 20; fd++ {
		unix.CloseOnExec(fd)
	}
	return syscall.Exec(attempts.Self, []string{attempts.Self, os.Args[1]}, []string{attemptVariable + "=1", "PATH=/usr/bin:/bin", "HOME=/"})
}
