package hidefs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// dir is an open folder.
type dir struct {
	node *node
	fd   int
	// mu is held by who reads: there is one position.
	mu  sync.Mutex
	buf [16 << 10]byte
}

func (fs *FS) dir(fh uint64) (*dir, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if d := fs.dirs[fh]; d != nil {
		return d, nil
	}
	return nil, unix.EBADF
}

// OpenDir opens a folder.
func (fs *FS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, status := fs.node(in.NodeId)
	if status != fuse.OK {
		return status
	}
	fd, err := fs.reopen(n, unix.O_RDONLY, unix.S_IFDIR)
	if err != nil {
		return fuse.ToStatus(err)
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.lastOpen++
	fs.dirs[fs.lastOpen] = &dir{node: n, fd: fd}
	out.Fh = fs.lastOpen
	return fuse.OK
}

// ReadDir lists what is not hidden, from an offset of the folder's own.
func (fs *FS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	d, err := fs.dir(in.Fh)
	if err != nil {
		return fuse.ToStatus(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	here, err := fs.at(d.fd)
	if err != nil || here.Matched() {
		return fuse.ToStatus(err)
	}
	if _, err := unix.Seek(d.fd, int64(in.Offset), unix.SEEK_SET); err != nil {
		return fuse.ToStatus(err)
	}
	for listed := false; ; {
		n, err := unix.Getdents(d.fd, d.buf[:])
		if err != nil || n <= 0 {
			return fuse.ToStatus(err)
		}
		for rest := d.buf[:n]; len(rest) > 0; {
			var e fuse.DirEntry
			rest = rest[e.Parse(rest):]
			own := e.Name == "." || e.Name == ".."
			if !own && here.Step(e.Name).Matched() {
				continue
			}
			e.Ino = fs.number(identity{d.node.mount, d.node.dev, e.Ino})
			if !out.AddDirEntry(e) {
				return fuse.OK
			}
			listed = true
		}
		if listed {
			return fuse.OK
		}
	}
}

// ReleaseDir closes a folder.
func (fs *FS) ReleaseDir(in *fuse.ReleaseIn) {
	fs.mu.Lock()
	d := fs.dirs[in.Fh]
	delete(fs.dirs, in.Fh)
	fs.mu.Unlock()
	if d != nil {
		_ = unix.Close(d.fd) // it was only read
	}
}

// FsyncDir has a folder written to the disk.
func (fs *FS) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	d, err := fs.dir(in.Fh)
	if err == nil {
		err = unix.Fsync(d.fd)
	}
	return fuse.ToStatus(err)
}
