package hidefs

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// openFlags are those of the caller's that mean the same to a file that is open
// already, by its descriptor.
const openFlags = unix.O_ACCMODE | unix.O_APPEND | unix.O_TRUNC | unix.O_SYNC | unix.O_DSYNC | unix.O_NOATIME

// noCache has the kernel ask for every read and write, so that both sides of
// the share see one content. virtiofsd is the only reader and maps nothing.
const noCache = fuse.FOPEN_DIRECT_IO

// reopen opens a node's content.
func (fs *FS) reopen(n *node, flags uint32, kind uint32) (int, error) {
	if err := fs.seen(n.fd); err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(n.fd, &st); err != nil {
		return -1, err
	}
	if st.Mode&unix.S_IFMT != kind {
		// Pipes, sockets and devices are the guest's kernel's own.
		return -1, unix.EACCES
	}
	return unix.Open(n.name(), int(flags&openFlags)|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
}

func (fs *FS) addFile(fd int) uint64 {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.lastOpen++
	fs.files[fs.lastOpen] = fd
	return fs.lastOpen
}

func (fs *FS) file(fh uint64) (int, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fd, ok := fs.files[fh]; ok {
		return fd, nil
	}
	return -1, unix.EBADF
}

// Open opens a file.
func (fs *FS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, status := fs.node(in.NodeId)
	if status != fuse.OK {
		return status
	}
	fd, err := fs.reopen(n, in.Flags, unix.S_IFREG)
	if err != nil {
		return fuse.ToStatus(err)
	}
	out.Fh, out.OpenFlags = fs.addFile(fd), noCache
	return fuse.OK
}

// Create makes a file, or opens it where it is there already.
func (fs *FS) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	dir, err := fs.creatable(in.NodeId, name)
	if err != nil {
		return fuse.ToStatus(err)
	}
	flags := int(in.Flags&(openFlags|unix.O_EXCL)) | unix.O_CREAT | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	return fs.create(in, out, func() (int, error) { return unix.Openat(dir.fd, name, flags, in.Mode&0o7777) })
}

// Tmpfile makes a file without a name.
func (fs *FS) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	dir, status := fs.node(in.NodeId)
	if status != fuse.OK {
		return status
	}
	flags := int(in.Flags&(openFlags|unix.O_EXCL)) | unix.O_TMPFILE | unix.O_CLOEXEC
	return fs.create(in, out, func() (int, error) { return unix.Open(dir.name(), flags, in.Mode&0o7777) })
}

// create opens a file with f, for the caller.
func (fs *FS) create(in *fuse.CreateIn, out *fuse.CreateOut, f func() (int, error)) fuse.Status {
	fd := -1
	err := as(&in.Caller, func() (err error) { fd, err = f(); return err })
	if err != nil {
		return fuse.ToStatus(err)
	}
	node := &node{fd: fd}
	path, err := unix.Open(node.name(), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err == nil {
		err = fs.seen(path)
	}
	status := fuse.ToStatus(err)
	if err == nil {
		status = fs.adopt(path, &out.EntryOut)
	} else if path >= 0 {
		_ = unix.Close(path)
	}
	if status != fuse.OK {
		_ = unix.Close(fd)
		return status
	}
	out.Fh, out.OpenFlags = fs.addFile(fd), noCache
	return fuse.OK
}

// Release closes a file.
func (fs *FS) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	fs.mu.Lock()
	fd, ok := fs.files[in.Fh]
	delete(fs.files, in.Fh)
	fs.mu.Unlock()
	if ok {
		_ = unix.Close(fd) // what it says of writes, fsync has said
	}
}

// Read reads.
func (fs *FS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	fd, err := fs.file(in.Fh)
	if err != nil {
		return nil, fuse.ToStatus(err)
	}
	n, err := unix.Pread(fd, buf[:min(int(in.Size), len(buf))], int64(in.Offset))
	if err != nil {
		return nil, fuse.ToStatus(err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// Write writes.
func (fs *FS) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	fd, err := fs.file(in.Fh)
	if err == nil {
		err = unprivilege(fd)
	}
	if err != nil {
		return 0, fuse.ToStatus(err)
	}
	n, err := unix.Pwrite(fd, data, int64(in.Offset))
	return uint32(max(n, 0)), fuse.ToStatus(err)
}

// unprivilege takes the setuid and setgid bits from a file that is written to.
// The kernel does that for writers without a right which this process has.
func unprivilege(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	bits := st.Mode & unix.S_ISUID
	if st.Mode&unix.S_IXGRP != 0 {
		bits |= st.Mode & unix.S_ISGID
	}
	if bits == 0 {
		return nil
	}
	return unix.Fchmod(fd, st.Mode&^bits&0o7777)
}

// Lseek finds data and holes.
func (fs *FS) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	fd, err := fs.file(in.Fh)
	if err != nil {
		return fuse.ToStatus(err)
	}
	at, err := unix.Seek(fd, int64(in.Offset), int(in.Whence))
	out.Offset = uint64(at)
	return fuse.ToStatus(err)
}

// Fsync has a file written to the disk.
func (fs *FS) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	fd, err := fs.file(in.Fh)
	if err != nil {
		return fuse.ToStatus(err)
	}
	if in.FsyncFlags&1 != 0 {
		return fuse.ToStatus(unix.Fdatasync(fd))
	}
	return fuse.ToStatus(unix.Fsync(fd))
}

// Fallocate reserves space, or makes holes.
func (fs *FS) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	fd, err := fs.file(in.Fh)
	if err == nil {
		err = unix.Fallocate(fd, in.Mode, int64(in.Offset), int64(in.Length))
	}
	return fuse.ToStatus(err)
}

// StatFs tells of the file system that the folder is in.
func (fs *FS) StatFs(_ <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	n, status := fs.node(h.NodeId)
	if status != fuse.OK {
		return status
	}
	var st syscall.Statfs_t
	if err := syscall.Fstatfs(n.fd, &st); err != nil {
		return fuse.ToStatus(err)
	}
	out.FromStatfsT(&st)
	return fuse.OK
}
