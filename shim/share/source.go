package share

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/annotations"
)

// source is a resolved source: a descriptor of it, and what it was found to be.
type source struct {
	file *os.File
	annotations.Source
	// follows is whether mounts made there later on the host reach this mount
	// namespace.
	follows bool
}

// host is the host's mounts as they were at one moment.
type host struct {
	mounts []*mountinfo.Info
	probes []string
}

// look reads the mounts of this namespace, without those below own: the tree
// itself is no place of the host's.
func look(own string, policy *annotations.Policy) (*host, error) {
	all, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("read the mounts of this process: %w", err)
	}
	h := &host{probes: policy.Probes()}
	for _, m := range all {
		if !below(m.Mountpoint, own) {
			h.mounts = append(h.mounts, m)
		}
	}
	return h, nil
}

// resolve opens asked, once, and finds out what it is. The caller closes file.
func (h *host) resolve(asked string) (_ *source, err error) {
	if !filepath.IsAbs(asked) {
		return nil, fmt.Errorf("the source %q is not an absolute path", asked)
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, asked, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC,
		// Such a link is a way around every name: /proc/self/fd/3, /proc/1/root.
		Resolve: unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, fmt.Errorf("open the source %q: %w", asked, plain(err))
	}
	s := &source{file: os.NewFile(uintptr(fd), asked), Source: annotations.Source{Asked: asked}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.file.Close())
		}
	}()
	id, err := s.identify()
	if err != nil {
		return nil, err
	}
	if err := h.name(&s.Source, id); err != nil {
		return nil, err
	}
	s.follows = h.follows(id)
	if s.Kind == annotations.KindDir {
		s.Holds = h.held(fd, s.Path)
		h.inside(&s.Source)
	}
	return s, nil
}

// identify finds the path and the kind of an open source, and the id of the
// mount that it lies in.
func (s *source) identify() (mount uint64, err error) {
	fd := int(s.file.Fd())
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &st); err != nil {
		return 0, fmt.Errorf("examine the source %q: %w", s.Asked, plain(err))
	}
	if st.Mask&unix.STATX_MNT_ID == 0 {
		return 0, fmt.Errorf("the host's kernel does not say which mount %q lies in; Linux 5.12 or later is needed", s.Asked)
	}
	if s.Path, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err != nil {
		return 0, fmt.Errorf("find the path of the source %q: %w", s.Asked, plain(err))
	}
	// The path is true only as long as it leads to the same thing: it may have
	// been removed, renamed or mounted over.
	var again unix.Statx_t
	err = unix.Statx(unix.AT_FDCWD, s.Path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &again)
	if err != nil || again.Ino != st.Ino || again.Dev_major != st.Dev_major || again.Dev_minor != st.Dev_minor {
		return 0, fmt.Errorf("the source %q was removed or replaced while it was being examined; try again", s.Asked)
	}
	s.Kind = kind(uint32(st.Mode))
	s.Major, s.Minor = st.Rdev_major, st.Rdev_minor
	return st.Mnt_id, nil
}

func kind(mode uint32) annotations.Kind {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return annotations.KindDir
	case unix.S_IFREG:
		return annotations.KindFile
	case unix.S_IFSOCK:
		return annotations.KindSocket
	case unix.S_IFIFO:
		return annotations.KindFIFO
	case unix.S_IFCHR:
		return annotations.KindChar
	case unix.S_IFBLK:
		return annotations.KindBlock
	}
	return annotations.Kind(fmt.Sprintf("file of mode %o", mode))
}

// name adds the other names of s, which lies in the mount of that id.
func (h *host) name(s *annotations.Source, id uint64) error {
	m := h.mount(id)
	if m == nil {
		return fmt.Errorf("the source %q lies in a mount that this process does not see", s.Asked)
	}
	rest, ok := relative(s.Path, m.Mountpoint)
	if !ok {
		return fmt.Errorf("the source %q is %q, which does not lie in its mount %q", s.Asked, s.Path, m.Mountpoint)
	}
	s.FSType = m.FSType
	where := filepath.Join(m.Root, rest)
	for _, o := range h.mounts {
		if o.Major != m.Major || o.Minor != m.Minor || o.ID == m.ID {
			continue
		}
		if rest, ok := relative(where, o.Root); ok {
			if alias := filepath.Join(o.Mountpoint, rest); alias != s.Path {
				s.Aliases = append(s.Aliases, alias)
			}
		} else if below(o.Root, where) {
			s.Contains = append(s.Contains, o.Mountpoint)
		}
	}
	return nil
}

func (h *host) mount(id uint64) *mountinfo.Info {
	for _, m := range h.mounts {
		if m.ID > 0 && uint64(m.ID) == id {
			return m
		}
	}
	return nil
}

func (h *host) follows(id uint64) bool {
	m := h.mount(id)
	return m != nil && (strings.Contains(m.Optional, "master:") || strings.Contains(m.Optional, "shared:"))
}

// inside adds the mounts below s.
func (h *host) inside(s *annotations.Source) {
	for _, m := range h.mounts {
		if m.Mountpoint == s.Path || !below(m.Mountpoint, s.Path) {
			continue
		}
		in := annotations.Source{Asked: s.Asked, Path: m.Mountpoint, Kind: annotations.KindDir}
		// The mount is one of the list and its path is its mount point, so that
		// this cannot fail.
		if err := h.name(&in, uint64(m.ID)); err == nil {
			s.Inside = append(s.Inside, in)
		}
	}
}

// held returns which probes exist below the folder that fd is.
func (h *host) held(fd int, path string) []string {
	var found []string
	for _, probe := range h.probes {
		if exists(fd, probe) {
			found = append(found, probe)
		}
	}
	if !annotations.HomeParent(path) {
		return found
	}
	for _, home := range entries(fd) {
		for _, probe := range h.probes {
			if below := filepath.Join(home, probe); exists(fd, below) {
				found = append(found, below)
			}
		}
	}
	return found
}

// exists follows symbolic links within the folder: only what lies in it is
// shared with it.
func exists(fd int, name string) bool {
	got, err := unix.Openat2(fd, name, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return false
	}
	_ = unix.Close(got) // an O_PATH descriptor has nothing to lose
	return true
}

func entries(fd int) []string {
	opened, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	dir := os.NewFile(uintptr(opened), "folder")
	defer closeQuietly(dir)
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	return names
}

// closeQuietly closes what has been read from only.
func closeQuietly(c io.Closer) { _ = c.Close() }

// below reports whether name is dir or lies below it. Both are clean.
func below(name, dir string) bool {
	_, ok := relative(name, dir)
	return ok
}

// relative returns name as it is seen from dir, where it lies below it.
func relative(name, dir string) (string, bool) {
	if name == dir {
		return "", true
	}
	if dir == "/" {
		return strings.TrimPrefix(name, "/"), true
	}
	return strings.CutPrefix(name, dir+"/")
}
