package share

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/internal/cleanup"
)

// Share is a composed tree and the daemon that serves it. Its methods are safe
// for concurrent use.
type Share struct {
	dir string // the tree, as it is mounted: read-only
	tmp string // the daemon's socket

	mu sync.Mutex
	// root is the tree; skeleton is a second mount of the same tmpfs, writable
	// and not attached anywhere, with which folders are made below root.
	root, skeleton *os.File
	containers     map[string]*cleanup.Stack
	undo           cleanup.Stack
	closed         bool

	// start starts the share's processes.
	start  Starter
	daemon *daemon
	// failed says which other process of the share ended unasked.
	failed atomic.Pointer[error]
}

// New makes an empty tree at dir/share. dir exists, is private to the VM, and
// short enough for a socket in it; the process's mount namespace is private.
// start starts the share's processes.
func New(dir string, start Starter) (_ *Share, err error) {
	s := &Share{
		start: start,
		dir:   filepath.Join(dir, "share"), tmp: filepath.Join(dir, "fs.sock"),
		containers: make(map[string]*cleanup.Stack),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.undo.Run())
		}
	}()
	if err := checkPrivate(dir); err != nil {
		return nil, err
	}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the share: %w", plain(err))
	}
	s.undo.Add("remove the share's folder", func() error { return os.Remove(s.dir) })

	tmpfs, err := newTmpfs()
	if err != nil {
		return nil, err
	}
	defer closeQuietly(tmpfs)
	if err := unix.MoveMount(int(tmpfs.Fd()), "", unix.AT_FDCWD, s.dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, fmt.Errorf("attach the share's tmpfs: %w", plain(err))
	}
	s.undo.Add("unmount the share", func() error { return unix.Unmount(s.dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) })

	if s.skeleton, err = clone(tmpfs, how{}); err != nil {
		return nil, err
	}
	s.undo.Add("close the skeleton", s.skeleton.Close)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(int(tmpfs.Fd()), "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return nil, fmt.Errorf("make the share's skeleton read-only: %w", err)
	}
	fd, err := unix.Open(s.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the share: %w", plain(err))
	}
	s.root = os.NewFile(uintptr(fd), s.dir)
	s.undo.Add("close the share", s.root.Close)
	return s, nil
}

// checkPrivate refuses to compose where the host would see it: what is mounted
// below a shared mount appears in every namespace.
func checkPrivate(dir string) error {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &st); err != nil {
		return fmt.Errorf("examine the folder %s: %w", dir, plain(err))
	}
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return fmt.Errorf("read the mounts of this process: %w", err)
	}
	for _, m := range mounts {
		if m.ID > 0 && uint64(m.ID) == st.Mnt_id && strings.Contains(m.Optional, "shared:") {
			return fmt.Errorf("the mount %s is shared with other mount namespaces; the share must be composed in a private one", m.Mountpoint)
		}
	}
	return nil
}

// Dir is the tree.
func (s *Share) Dir() string { return s.dir }

// Socket is the daemon's vhost-user socket. It listens once Serve returned.
func (s *Share) Socket() string { return s.tmp }

// validID is what may be a folder's name in the tree.
var validID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

// mkdir makes a folder of the skeleton.
func (s *Share) mkdir(name string) error {
	if err := unix.Mkdirat(int(s.skeleton.Fd()), name, 0o755); err != nil {
		return fmt.Errorf("make %s in the share: %w", name, plain(err))
	}
	return nil
}

// mkfile makes an empty file of the skeleton.
func (s *Share) mkfile(name string) error {
	fd, err := unix.Openat(int(s.skeleton.Fd()), name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err == nil {
		err = unix.Close(fd)
	}
	if err != nil {
		return fmt.Errorf("make %s in the share: %w", name, plain(err))
	}
	return nil
}

// remove removes an empty folder or a file of the skeleton.
func (s *Share) remove(name string, flags int) error {
	return plain(unix.Unlinkat(int(s.skeleton.Fd()), name, flags))
}

// target opens a place of the tree to attach a mount to.
func (s *Share) target(name string) (*os.File, error) {
	fd, err := unix.Openat2(int(s.root.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, fmt.Errorf("open %s in the share: %w", name, plain(err))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Close ends the daemon, unmounts everything and removes the tree. Calling it
// again does nothing.
func (s *Share) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var errs []error
	if s.daemon != nil {
		s.daemon.stop()
	}
	for id, c := range s.containers {
		errs = append(errs, c.Run())
		delete(s.containers, id)
	}
	return errors.Join(append(errs, s.undo.Run())...)
}
