package share

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync/atomic"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/internal/process"
)

// Starter starts a process where the VM's owner wants it: like exec.Cmd.Start.
type Starter func(*exec.Cmd) error

// daemon is a running virtiofsd.
type daemon struct {
	*process.Process
	// stopped is set before the daemon is killed on purpose.
	stopped atomic.Bool
}

// enoughFiles is the number of open files with which the daemon can hold one
// descriptor for every file that the VM knows: several node_modules.
const enoughFiles = 100_000

// fileHandles says how the daemon remembers files: by descriptors, where the
// host lets it have enough of them. File handles need none, but a right with
// which a daemon that was taken over could open any file of a file system by its
// number (CAP_DAC_READ_SEARCH).
func fileHandles() string {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil && limit.Max < enoughFiles {
		return "prefer"
	}
	return "never"
}

// arguments are the daemon's. docs/files.md has the reasons.
func arguments(tree string) []string {
	return []string{
		"--fd=3",
		"--shared-dir=" + tree,
		"--sandbox=chroot",
		"--seccomp=kill",
		"--cache=auto",
		"--announce-submounts",
		"--xattr",
		"--inode-file-handles=" + fileHandles(),
		"--thread-pool-size=0",
		"--log-level=warn",
	}
}

// Serve starts virtiofsd over the tree, listening at Socket when it returns.
// Containers can be added before and after. It serves one VM, once. ctx bounds
// the start only.
func (s *Share) Serve(ctx context.Context, virtiofsd string) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("the share is closed")
	}
	if s.daemon != nil {
		return errors.New("the share is served already")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// Listening before the daemon runs, so that nobody has to wait for it.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.tmp, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen for the VM at %s: %w", s.tmp, plain(err))
	}
	l.SetUnlinkOnClose(false)
	defer closeQuietly(l)
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(s.tmp))
		}
	}()
	if err := os.Chmod(s.tmp, 0o600); err != nil {
		return fmt.Errorf("protect %s: %w", s.tmp, plain(err))
	}
	socket, err := l.File()
	if err != nil {
		return fmt.Errorf("pass %s on: %w", s.tmp, err)
	}
	defer closeQuietly(socket)

	if fileHandles() != "never" {
		log.G(ctx).Warnf("the limit of open files is below %d (ulimit -Hn); virtiofsd keeps CAP_DAC_READ_SEARCH to need fewer of them", enoughFiles)
	}
	cmd := exec.Command(virtiofsd, arguments(s.dir)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin", "LANG=C.UTF-8"}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{socket}
	p, err := process.Start(s.start, "virtiofsd", cmd)
	if err != nil {
		return err
	}
	s.daemon = &daemon{Process: p}
	if s.failed.Load() != nil {
		s.daemon.Kill()
	}
	s.undo.Add("remove the daemon's socket", func() error { return ignoreMissing(os.Remove(s.tmp)) })
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Done is closed when the daemon has ended, for whatever reason; it is ended
// where another process of the share has. The share must have been served.
func (s *Share) Done() <-chan struct{} { return s.daemon.Done() }

// Err says why the daemon ended, with its last words; nil where Close ended it.
// It is valid after Done.
func (s *Share) Err() error {
	if s.daemon.stopped.Load() {
		return nil
	}
	if err := s.failed.Load(); err != nil {
		return *err
	}
	return s.daemon.Failure()
}

// PID is the daemon's process.
func (s *Share) PID() int { return s.daemon.PID() }

// stop ends the daemon, unless it has ended by itself.
func (d *daemon) stop() {
	if d.Ended() {
		return
	}
	d.stopped.Store(true)
	<-d.Killed()
}

// fail ends the daemon because of what happened to another process of the share:
// files of a container are not served any more.
func (s *Share) fail(err error) {
	s.failed.CompareAndSwap(nil, &err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.daemon != nil {
		s.daemon.Kill()
	}
}
