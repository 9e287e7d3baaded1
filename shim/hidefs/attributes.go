package hidefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// GetAttr describes a file.
func (fs *FS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, status := fs.node(in.NodeId)
	if status != fuse.OK {
		return status
	}
	return fuse.ToStatus(fs.fill(&out.Attr, n.fd, n.identity))
}

// SetAttr changes what it is told to.
func (fs *FS) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, status := fs.node(in.NodeId)
	if status != fuse.OK {
		return status
	}
	err := fs.seen(n.fd)
	for _, change := range []func(*node, *fuse.SetAttrIn) error{setOwner, setMode, fs.setSize, setTimes} {
		if err == nil {
			err = change(n, in)
		}
	}
	if err == nil {
		err = fs.fill(&out.Attr, n.fd, n.identity)
	}
	return fuse.ToStatus(err)
}

func setMode(n *node, in *fuse.SetAttrIn) error {
	mode, ok := in.GetMode()
	if !ok {
		return nil
	}
	return unix.Fchmodat(unix.AT_FDCWD, n.name(), mode&0o7777, 0)
}

func setOwner(n *node, in *fuse.SetAttrIn) error {
	uid, hasUID := in.GetUID()
	gid, hasGID := in.GetGID()
	if !hasUID && !hasGID {
		return nil
	}
	user, group := -1, -1
	if hasUID {
		user = int(uid)
	}
	if hasGID {
		group = int(gid)
	}
	return unix.Fchownat(n.fd, "", user, group, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
}

func (fs *FS) setSize(n *node, in *fuse.SetAttrIn) error {
	size, ok := in.GetSize()
	if !ok {
		return nil
	}
	if fh, ok := in.GetFh(); ok {
		fd, err := fs.file(fh)
		if err != nil {
			return err
		}
		return unix.Ftruncate(fd, int64(size))
	}
	return unix.Truncate(n.name(), int64(size))
}

func setTimes(n *node, in *fuse.SetAttrIn) error {
	if in.Valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME|fuse.FATTR_ATIME_NOW|fuse.FATTR_MTIME_NOW) == 0 {
		return nil
	}
	when := func(set, now uint32, sec uint64, nsec uint32) unix.Timespec {
		switch {
		case in.Valid&now != 0:
			return unix.Timespec{Nsec: unix.UTIME_NOW}
		case in.Valid&set != 0:
			return unix.Timespec{Sec: int64(sec), Nsec: int64(nsec)}
		}
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, n.name(), []unix.Timespec{
		when(fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec),
		when(fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec),
	}, 0)
}

// Readlink reads a symbolic link.
func (fs *FS) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	n, status := fs.node(h.NodeId)
	if status != fuse.OK {
		return nil, status
	}
	if err := fs.seen(n.fd); err != nil {
		return nil, fuse.ToStatus(err)
	}
	buf := make([]byte, unix.PathMax)
	size, err := unix.Readlinkat(n.fd, "", buf)
	if err != nil {
		return nil, fuse.ToStatus(err)
	}
	return buf[:size], fuse.OK
}

// attribute runs f with the name by which a node's extended attributes are
// reached.
func (fs *FS) attribute(id uint64, f func(name string) error) fuse.Status {
	n, status := fs.node(id)
	if status != fuse.OK {
		return status
	}
	err := fs.seen(n.fd)
	if err == nil {
		err = f(n.name())
	}
	return fuse.ToStatus(err)
}

// GetXAttr reads an extended attribute, or its size where there is no room.
func (fs *FS) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	var size int
	status := fs.attribute(h.NodeId, func(name string) (err error) {
		size, err = unix.Getxattr(name, attr, dest)
		return err
	})
	return uint32(max(size, 0)), status
}

// ListXAttr lists extended attributes.
func (fs *FS) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	var size int
	status := fs.attribute(h.NodeId, func(name string) (err error) {
		size, err = unix.Listxattr(name, dest)
		return err
	})
	return uint32(max(size, 0)), status
}

// SetXAttr sets an extended attribute.
func (fs *FS) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	return fs.attribute(in.NodeId, func(name string) error { return unix.Setxattr(name, attr, data, int(in.Flags)) })
}

// RemoveXAttr removes an extended attribute.
func (fs *FS) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, attr string) fuse.Status {
	return fs.attribute(h.NodeId, func(name string) error { return unix.Removexattr(name, attr) })
}
