package hidefs

import (
	"hash/maphash"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/annotations/pattern"
)

// identity is what a file is. The same folder that is mounted twice below
// another one is two: names differ below each.
type identity struct {
	mount, dev, ino uint64
}

// node is a file that the kernel knows.
type node struct {
	identity
	id uint64
	// fd is an O_PATH descriptor of it. The number stays; it may become that of
	// another name of the same file.
	fd      int
	lookups uint64
}

// name is how the node is opened again, or its path is asked for: the process
// stands in /proc/self/fd, so that nothing but what the descriptor is can be
// meant.
func (n *node) name() string { return strconv.Itoa(n.fd) }

// FS is the file system. The kernel calls its methods side by side.
type FS struct {
	fuse.RawFileSystem
	// walk has come to the folder, as the container calls it.
	walk pattern.Walk
	root *node
	seed maphash.Seed

	mu     sync.Mutex
	nodes  map[uint64]*node
	known  map[identity]*node
	lastID uint64
	// files and dirs are what is open.
	files    map[uint64]int
	dirs     map[uint64]*dir
	lastOpen uint64
}

// New returns the file system that shows the folder root, an open descriptor,
// at destination without what patterns hide. The process has /proc/self/fd as
// its working folder.
func New(root int, destination string, patterns []string) (*FS, error) {
	fs := &FS{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		walk:          pattern.NewWalk(patterns).To(destination),
		seed:          maphash.MakeSeed(),
		nodes:         map[uint64]*node{}, known: map[identity]*node{},
		files: map[uint64]int{}, dirs: map[uint64]*dir{},
		lastID: fuse.FUSE_ROOT_ID,
	}
	id, err := identify(root)
	if err != nil {
		return nil, err
	}
	fs.root = &node{identity: id, id: fuse.FUSE_ROOT_ID, fd: root, lookups: 1}
	fs.nodes[fs.root.id], fs.known[id] = fs.root, fs.root
	return fs, nil
}

// String names the file system in the host's list of mounts.
func (fs *FS) String() string { return "nanoclaw-hide" }

func identify(fd int) (identity, error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_MNT_ID, &st); err != nil {
		return identity{}, err
	}
	return identity{mount: st.Mnt_id, dev: unix.Mkdev(st.Dev_major, st.Dev_minor), ino: st.Ino}, nil
}

// node returns a file by the kernel's number. The kernel does not forget one
// that it is asking about.
func (fs *FS) node(id uint64) (*node, fuse.Status) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if n := fs.nodes[id]; n != nil {
		return n, fuse.OK
	}
	return nil, fuse.Status(syscall.ESTALE)
}

// at returns the walk to where a descriptor is now. The path is the kernel's, so
// it is the true one whoever moved the file, or a folder above it, in between.
func (fs *FS) at(fd int) (pattern.Walk, error) {
	buf := make([]byte, 2*unix.PathMax)
	n, err := unix.Readlink(strconv.Itoa(fd), buf)
	if err != nil {
		return pattern.Walk{}, err
	}
	if n == len(buf) {
		return pattern.Walk{}, unix.ENAMETOOLONG
	}
	here, err := fs.below(string(buf[:n]))
	return fs.walk.To(here), err
}

// seen is ENOENT where the file that fd is has a hidden name now.
func (fs *FS) seen(fd int) error {
	w, err := fs.at(fd)
	if err != nil {
		return err
	}
	if !w.Matched() {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Nlink == 0 {
		// It has no name any more. It had another one when it was opened.
		return nil
	}
	return unix.ENOENT
}

// below is a path of the kernel's as it is seen from the folder.
func (fs *FS) below(p string) (string, error) {
	buf := make([]byte, 2*unix.PathMax)
	n, err := unix.Readlink(fs.root.name(), buf)
	if err != nil {
		return "", err
	}
	top := string(buf[:n])
	if p == top {
		return "", nil
	}
	rest, ok := strings.CutPrefix(p, strings.TrimSuffix(top, "/")+"/")
	if !ok {
		// Moved out of the folder by the host.
		return "", unix.ENOENT
	}
	return rest, nil
}

// in returns the folder of that number, and the walk to name in it.
func (fs *FS) in(dir uint64, name string) (*node, pattern.Walk, error) {
	n, status := fs.node(dir)
	if status != fuse.OK {
		return nil, pattern.Walk{}, syscall.Errno(status)
	}
	if name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
		return nil, pattern.Walk{}, unix.EINVAL
	}
	w, err := fs.at(n.fd)
	if err != nil {
		return nil, w, err
	}
	return n, w.Step(name), nil
}

// present is in for a name that must not be hidden to be there.
func (fs *FS) present(dir uint64, name string) (*node, error) {
	n, w, err := fs.in(dir, name)
	if err == nil && w.Matched() {
		err = unix.ENOENT
	}
	return n, err
}

// creatable is in for a name that must not be hidden to be made.
func (fs *FS) creatable(dir uint64, name string) (*node, error) {
	n, w, err := fs.in(dir, name)
	if err == nil && w.Matched() {
		err = unix.EACCES
	}
	return n, err
}

// Lookup finds an entry of a folder.
func (fs *FS) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dir, err := fs.present(h.NodeId, name)
	if err != nil {
		return fuse.ToStatus(err)
	}
	return fs.enter(dir.fd, name, out)
}

// enter opens an entry of a folder, and has the kernel know it.
func (fs *FS) enter(dir int, name string, out *fuse.EntryOut) fuse.Status {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fuse.ToStatus(err)
	}
	// Names may have changed since they were judged.
	if err := fs.seen(fd); err != nil {
		_ = unix.Close(fd)
		return fuse.ToStatus(err)
	}
	return fs.adopt(fd, out)
}

// adopt takes fd over, as a new node's or a known one's.
func (fs *FS) adopt(fd int, out *fuse.EntryOut) fuse.Status {
	id, err := identify(fd)
	if err == nil {
		err = fs.fill(&out.Attr, fd, id)
	}
	if err != nil {
		_ = unix.Close(fd)
		return fuse.ToStatus(err)
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := fs.known[id]
	if n == nil {
		fs.lastID++
		n = &node{identity: id, id: fs.lastID, fd: fd}
		fs.nodes[n.id], fs.known[id] = n, n
	} else {
		// By the name that was asked for: its last one may be gone, or hidden.
		err := unix.Dup3(fd, n.fd, unix.O_CLOEXEC)
		_ = unix.Close(fd)
		if err != nil {
			return fuse.ToStatus(err)
		}
	}
	n.lookups++
	// Nothing is remembered by the kernel: what is hidden next must not be seen.
	out.NodeId, out.Generation = n.id, 1
	return fuse.OK
}

// Forget counts what the kernel does not know any more.
func (fs *FS) Forget(id, lookups uint64) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := fs.nodes[id]
	if n == nil || n == fs.root {
		return
	}
	if n.lookups > lookups {
		n.lookups -= lookups
		return
	}
	delete(fs.nodes, id)
	delete(fs.known, n.identity)
	_ = unix.Close(n.fd) // an O_PATH descriptor has nothing to lose
}

// number is the inode number that a file is shown with. Those of the folder's
// own mount stay; of other mounts below it, which are shown as one file system
// with it, they could be the same.
func (fs *FS) number(id identity) uint64 {
	if id.mount == fs.root.mount && id.dev == fs.root.dev {
		return id.ino
	}
	return 1<<62 | maphash.Comparable(fs.seed, id)>>2
}

// fill describes the file that fd is.
func (fs *FS) fill(a *fuse.Attr, fd int, id identity) error {
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return err
	}
	a.FromStat(&st)
	a.Ino = fs.number(id)
	return nil
}
