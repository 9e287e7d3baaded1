package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// FileName is the file that is written to. Files that it was rotated into are
// named archiveName.
const FileName = "audit.jsonl"

// archiveName names a finished file after the number of its last record, so
// that the order of names is the order of records.
func archiveName(last uint64) string { return fmt.Sprintf("audit-%014d.jsonl", last) }

var archivePattern = regexp.MustCompile(`^audit-[0-9]{14,20}\.jsonl$`)

// folder is the log's directory, held open.
type folder struct {
	path string
	fd   *os.File
}

// openFolder opens the folder at path. With create it is made where it is not
// there, and must be one that only its owner can change.
func openFolder(path string, create bool) (*folder, error) {
	if create {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, fmt.Errorf("make the folder of %s: %w", path, plain(err))
		}
		if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("make the folder %s: %w", path, plain(err))
		}
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the folder %s: %w", path, plain(err))
	}
	f := &folder{path: path, fd: os.NewFile(uintptr(fd), path)}
	if create {
		if err := f.checkOwned(f.fd, unix.S_IFDIR); err != nil {
			return nil, errors.Join(err, f.close())
		}
	}
	return f, nil
}

func (f *folder) close() error { return f.fd.Close() }

// checkOwned refuses what somebody else could write to.
func (f *folder) checkOwned(file *os.File, kind uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return fmt.Errorf("examine %s: %w", file.Name(), plain(err))
	}
	switch {
	case st.Mode&unix.S_IFMT != kind:
		return fmt.Errorf("%s is not what an audit log is made of; move it away", file.Name())
	case int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0:
		return fmt.Errorf("%s can be written by others than its owner, or belongs to another user; run chown root and chmod go-w on it", file.Name())
	}
	return nil
}

// open opens a file of the folder, which may not be a link.
func (f *folder) open(name string, flags int) (*os.File, error) {
	path := filepath.Join(f.path, name)
	fd, err := unix.Openat(int(f.fd.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, plain(err))
	}
	file := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.Join(fmt.Errorf("open %s: it is no regular file", path), err, file.Close())
	}
	return file, nil
}

// create opens a file of the folder for writing and makes it where it is not
// there.
func (f *folder) create(name string, flags int) (*os.File, error) {
	file, err := f.open(name, flags|unix.O_CREAT)
	if err != nil {
		return nil, err
	}
	if err := f.checkOwned(file, unix.S_IFREG); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// archives are the names of the finished files, oldest first.
func (f *folder) archives() ([]string, error) {
	// A descriptor of its own: reading moves it.
	fd, err := unix.Openat(int(f.fd.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", f.path, plain(err))
	}
	dir := os.NewFile(uintptr(fd), f.path)
	defer func() { _ = dir.Close() }() // it was read from only
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", f.path, plain(err))
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !archivePattern.MatchString(n) })
	slices.SortFunc(names, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	return names, nil
}

// rename never replaces a file: it might be a part of the log.
func (f *folder) rename(from, to string) error {
	dir := int(f.fd.Fd())
	err := unix.Renameat2(dir, from, dir, to, unix.RENAME_NOREPLACE)
	if err != nil {
		return fmt.Errorf("rename %s to %s: %w", filepath.Join(f.path, from), to, plain(err))
	}
	return f.sync()
}

func (f *folder) remove(name string) error {
	if err := unix.Unlinkat(int(f.fd.Fd()), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", filepath.Join(f.path, name), plain(err))
	}
	return nil
}

func (f *folder) sync() error {
	if err := f.fd.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", f.path, plain(err))
	}
	return nil
}

// lock takes the lock that the file carries, exclusive or shared, and returns
// how to give it back. Whoever holds it does so for a moment; one who was stopped
// while holding it must not stop everybody else for ever.
func lock(file *os.File, how int, patience time.Duration) (func(), error) {
	const most = 20 * time.Millisecond
	wait := 100 * time.Microsecond
	for deadline := time.Now().Add(patience); ; {
		err := unix.Flock(int(file.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return func() { _ = unix.Flock(int(file.Fd()), unix.LOCK_UN) }, nil // it cannot fail for a lock that is held
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("lock %s: %w", file.Name(), plain(err))
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("lock %s: another process has held it for %s", file.Name(), patience)
		}
		time.Sleep(wait)
		wait = min(2*wait, most)
	}
}
