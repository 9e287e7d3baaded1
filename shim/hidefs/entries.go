package hidefs

import (
	"errors"
	"fmt"
	"log"
	"runtime"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// kept are the rights over files that a thread keeps when it acts for another
// user: they were judged by the guest's kernel, and by this host's.
const kept = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID | 1<<unix.CAP_MKNOD

// as runs f on a thread whose new files belong to the caller.
func as(caller *fuse.Caller, f func() error) error {
	if caller.Uid == 0 && caller.Gid == 0 {
		return f()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer func() {
		if err := become(0, 0); err != nil {
			// Another request would be served as that user; there is no safe way on.
			log.Fatalf("give a user's identity back: %v", err)
		}
	}()
	if err := become(int(caller.Uid), int(caller.Gid)); err != nil {
		return err
	}
	return f()
}

// become sets whom this thread is for new files and permissions.
func become(uid, gid int) error {
	if err := set(unix.SetfsgidRetGid, gid); err != nil {
		return err
	}
	if err := set(unix.SetfsuidRetUid, uid); err != nil {
		return err
	}
	if uid == 0 {
		return nil // the kernel has given the rights back
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Effective |= kept & data[0].Permitted
	return unix.Capset(&header, &data[0])
}

// set calls one of the two that return what was and never an error, and sees
// that it is so.
func set(call func(int) (int, error), id int) error {
	if _, err := call(id); err != nil {
		return err
	}
	if now, err := call(-1); err != nil || uint32(now) != uint32(id) {
		return fmt.Errorf("it is %d and not %d: %w", now, id, errors.Join(err, unix.EPERM))
	}
	return nil
}

// make makes an entry with f, which is given its folder, and has the kernel
// know it.
func (fs *FS) make(h *fuse.InHeader, name string, out *fuse.EntryOut, f func(dir int) error) fuse.Status {
	dir, err := fs.creatable(h.NodeId, name)
	if err == nil {
		err = as(&h.Caller, func() error { return f(dir.fd) })
	}
	if err != nil {
		return fuse.ToStatus(err)
	}
	return fs.enter(dir.fd, name, out)
}

// Mkdir makes a folder.
func (fs *FS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return fs.make(&in.InHeader, name, out, func(dir int) error { return unix.Mkdirat(dir, name, in.Mode&0o7777) })
}

// Mknod makes a file, a pipe, a socket or a device node, which is dead on this
// host: the mount is nodev.
func (fs *FS) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return fs.make(&in.InHeader, name, out, func(dir int) error { return unix.Mknodat(dir, name, in.Mode, int(in.Rdev)) })
}

// Symlink makes a symbolic link, which is followed by the guest alone.
func (fs *FS) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return fs.make(h, name, out, func(dir int) error { return unix.Symlinkat(target, dir, name) })
}

// Link gives a file that is seen a second name.
func (fs *FS) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	n, status := fs.node(in.Oldnodeid)
	if status != fuse.OK {
		return status
	}
	dir, err := fs.creatable(in.NodeId, name)
	if err == nil {
		err = fs.seen(n.fd)
	}
	if err == nil {
		err = unix.Linkat(unix.AT_FDCWD, n.name(), dir.fd, name, unix.AT_SYMLINK_FOLLOW)
	}
	if err != nil {
		return fuse.ToStatus(err)
	}
	return fs.enter(dir.fd, name, out)
}

// Unlink removes a file.
func (fs *FS) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return fs.remove(h, name, 0)
}

// Rmdir removes an empty folder; one that holds something hidden is not empty.
func (fs *FS) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return fs.remove(h, name, unix.AT_REMOVEDIR)
}

func (fs *FS) remove(h *fuse.InHeader, name string, flags int) fuse.Status {
	dir, err := fs.present(h.NodeId, name)
	if err == nil {
		err = unix.Unlinkat(dir.fd, name, flags)
	}
	return fuse.ToStatus(err)
}

// Rename moves an entry. A folder may go only where the same names are hidden
// below it: otherwise a hidden file would be seen under the folder's new name,
// or one that was seen be a hidden file that the guest has made. The host's
// kernel holds both folders while it asks for this, so that what is judged is
// what is moved: no name in them becomes another file's in between.
func (fs *FS) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	if in.Flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 {
		return fuse.EINVAL
	}
	from, old, err := fs.in(in.NodeId, oldName)
	if err != nil {
		return fuse.ToStatus(err)
	}
	to, now, err := fs.in(in.Newdir, newName)
	if err != nil {
		return fuse.ToStatus(err)
	}
	exchange := in.Flags&unix.RENAME_EXCHANGE != 0
	switch {
	case old.Matched(), exchange && now.Matched():
		return fuse.ENOENT
	case now.Matched():
		return fuse.EACCES
	case !old.Same(now) && (isDir(from.fd, oldName) || exchange && isDir(to.fd, newName)):
		return fuse.EACCES
	}
	return fuse.ToStatus(unix.Renameat2(from.fd, oldName, to.fd, newName, uint(in.Flags)))
}

// isDir also says yes where it cannot be known.
func isDir(dir int, name string) bool {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return err != nil && err != unix.ENOENT || err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}
