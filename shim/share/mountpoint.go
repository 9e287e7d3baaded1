package share

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/annotations"
)

// makeMountPoints makes what is missing for the spec's mounts in a root file
// system that is about to become read-only, as runc does before it does so.
//
// Nothing of the image is trusted: every step is taken with the root file system
// as the root of the lookup, so that neither ".." nor a symbolic link leads out.
func makeMountPoints(rootfs *os.File, spec *specs.Spec) error {
	var made []string
	for _, m := range spec.Mounts {
		dest := path.Join("/", m.Destination)
		// A mount within a mount has its mount point there, not in the root.
		inner := false
		for _, outer := range made {
			inner = inner || below(dest, outer)
		}
		made = append(made, dest)
		if inner {
			continue
		}
		if err := makePath(int(rootfs.Fd()), dest, bindsFile(m)); err != nil {
			return fmt.Errorf("make the mount point %q in the read-only root file system: %w", m.Destination, err)
		}
	}
	if spec.Process != nil && path.IsAbs(spec.Process.Cwd) {
		if err := makePath(int(rootfs.Fd()), path.Clean(spec.Process.Cwd), false); err != nil {
			return fmt.Errorf("make the working directory %q in the read-only root file system: %w", spec.Process.Cwd, err)
		}
	}
	return nil
}

// bindsFile reports whether a mount needs a file as its mount point. What it is
// is a matter of making an empty file or folder only; the source is resolved and
// judged where it is mounted.
func bindsFile(m specs.Mount) bool {
	if !annotations.IsBind(m) {
		return false
	}
	st, err := os.Stat(m.Source)
	return err == nil && !st.IsDir()
}

// maxLinks is how many dangling symbolic links makePath follows.
const maxLinks = 16

// makePath makes name, an absolute path as the root file system sees itself, and
// the folders above it, as far as they are missing. A symbolic link to nowhere
// has what it points at made.
func makePath(root int, name string, file bool) error {
	for range maxLinks {
		existing, rest, fd, err := deepest(root, name)
		if err != nil {
			return err
		}
		next, err := makeRest(fd, existing, rest, file)
		closeErr := unix.Close(fd)
		if err != nil || next == "" {
			return errors.Join(err, closeErr)
		}
		name = next
	}
	return errors.New("too many symbolic links")
}

// deepest opens the longest part of name that exists.
func deepest(root int, name string) (existing, rest string, fd int, err error) {
	existing = path.Clean(name)
	for {
		fd, err = openIn(root, existing, unix.O_PATH)
		if !errors.Is(err, unix.ENOENT) || existing == "/" {
			return existing, rest, fd, plain(err)
		}
		rest = path.Join(path.Base(existing), rest)
		existing = path.Dir(existing)
	}
}

// makeRest makes the parts of rest, one below the other, in the folder that fd
// is. It returns where to go on when the first of them is a dangling link.
func makeRest(fd int, existing, rest string, file bool) (next string, err error) {
	if rest == "" {
		return "", nil
	}
	dir, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unix.Close(dir)) }()
	parts := strings.Split(rest, "/")
	for i, part := range parts {
		asFile := file && i == len(parts)-1
		switch err := makeOne(dir, part, asFile); {
		case errors.Is(err, unix.EEXIST) && i == 0:
			link, err := readlinkat(dir, part)
			if err != nil {
				return "", err
			}
			if !path.IsAbs(link) {
				link = path.Join(existing, link)
			}
			return path.Join(append([]string{"/", link}, parts[1:]...)...), nil
		case err != nil || asFile:
			return "", plain(err)
		}
		// What was just made, and no link that took its place.
		sub, err := unix.Openat2(dir, part, &unix.OpenHow{
			Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
		})
		if err != nil {
			return "", plain(err)
		}
		if err := unix.Dup3(sub, dir, unix.O_CLOEXEC); err != nil {
			return "", errors.Join(err, unix.Close(sub))
		}
		if err := unix.Close(sub); err != nil {
			return "", err
		}
	}
	return "", nil
}

// makeOne makes an empty file or folder.
func makeOne(dir int, name string, file bool) error {
	if !file {
		return unix.Mkdirat(dir, name, 0o755)
	}
	fd, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o755)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func readlinkat(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", plain(err)
	}
	return string(buf[:n]), nil
}

func openIn(root int, name string, flags uint64) (int, error) {
	return unix.Openat2(root, name, &unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}
