package share

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// confined are the attributes of every mount in the tree. The VM sees the mode
// bits and device nodes as they are; on the host they are dead. A virtiofsd that
// was taken over could otherwise make a node of the host's disk and open it.
const confined = unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC

// how says how a source is mounted.
type how struct {
	recursive bool
	readonly  bool
	// slave lets mounts made later below the source on the host appear.
	slave bool
}

// clone makes a mount of what source is a descriptor of, not attached anywhere
// yet, with its attributes set: it is never to be seen without them.
func clone(source *os.File, h how) (_ *os.File, err error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	setattr := uint(unix.AT_EMPTY_PATH)
	if h.recursive {
		flags |= unix.AT_RECURSIVE
		setattr |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(int(source.Fd()), "", flags)
	if err != nil {
		return nil, fmt.Errorf("clone the mount of %q: %w", source.Name(), plain(err))
	}
	tree := os.NewFile(uintptr(fd), source.Name())
	attr := unix.MountAttr{Attr_set: confined, Propagation: unix.MS_PRIVATE}
	if h.readonly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if h.slave {
		attr.Propagation = unix.MS_SLAVE
	}
	if err := unix.MountSetattr(fd, "", setattr, &attr); err != nil {
		err = fmt.Errorf("set the attributes of the mount of %q: %w", source.Name(), plain(err))
		return nil, errors.Join(err, tree.Close())
	}
	return tree, nil
}

// attach attaches a cloned mount at target, which lies in the tree.
func attach(tree, target *os.File) error {
	err := unix.MoveMount(int(tree.Fd()), "", int(target.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("attach %q to the share: %w", tree.Name(), plain(err))
	}
	return nil
}

// newTmpfs makes a small tmpfs, not attached anywhere.
func newTmpfs() (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make the share's tmpfs: %w", err)
	}
	config := os.NewFile(uintptr(fs), "tmpfs")
	defer closeQuietly(config)
	// It holds empty folders and files only.
	for _, o := range [][2]string{{"source", "nanoclaw-share"}, {"size", "1m"}, {"nr_inodes", "65536"}, {"mode", "0755"}} {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return nil, fmt.Errorf("set %s of the share's tmpfs: %w", o[0], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("make the share's tmpfs: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, confined)
	if err != nil {
		return nil, fmt.Errorf("mount the share's tmpfs: %w", err)
	}
	return os.NewFile(uintptr(fd), "share"), nil
}
