package verify

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Bounds of a search, for a host on which something writes without end.
const (
	maxFiles = 200_000
	maxFile  = 256 << 20
)

// where is one place that a token was found at.
type where struct {
	token token
	place string
}

// search looks for tokens in the regular files below the roots, and for files
// that were changed since, where since is not zero. A root that is not there holds
// nothing. Other file systems below a root are not searched, nor is anything in
// except.
func search(roots []string, except []string, since time.Time, tokens ...token) (found []where, err error) {
	files := 0
	for _, root := range roots {
		var device uint64
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				// It was removed meanwhile, or is a process's that ended.
				if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
					return nil
				}
				return err
			}
			if slices.Contains(except, path) {
				return skip(d)
			}
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil {
				return nil //nolint:nilerr // it was removed meanwhile
			}
			if device == 0 {
				device = st.Dev
			}
			if st.Dev != device {
				return skip(d)
			}
			changed := time.Unix(st.Ctim.Unix())
			if !d.Type().IsRegular() || changed.Before(since) {
				return nil
			}
			if files++; files > maxFiles {
				return fmt.Errorf("there are more than %d files in %s", maxFiles, root)
			}
			in, err := inFile(path, tokens)
			found = append(found, in...)
			return err
		})
		if err != nil {
			return found, fmt.Errorf("search %s: %w", root, err)
		}
	}
	return found, nil
}

func skip(d fs.DirEntry) error {
	if d.IsDir() {
		return fs.SkipDir
	}
	return nil
}

// inFile looks for tokens in a file.
func inFile(path string, tokens []token) ([]where, error) {
	// It may have become a pipe by now, which must not hold us.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_NOFOLLOW, 0)
	if err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ETXTBSY) {
			return nil, nil
		}
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer func() { _ = f.Close() }() // it was read from only
	return inStream(path, f, tokens)
}

// inStream looks for tokens in what r gives.
func inStream(place string, r io.Reader, tokens []token) (found []where, err error) {
	const keep = 128 // more than a token's length, for one that two reads share
	buffer := make([]byte, 0, 1<<20)
	seen := map[token]bool{}
	for total := 0; ; {
		n, err := r.Read(buffer[len(buffer):cap(buffer)])
		buffer = buffer[:len(buffer)+n]
		for _, t := range tokens {
			if !seen[t] && bytes.Contains(buffer, []byte(t)) {
				seen[t] = true
				found = append(found, where{t, place})
			}
		}
		switch total += n; {
		case errors.Is(err, io.EOF), errors.Is(err, unix.ESRCH), errors.Is(err, unix.EAGAIN):
			return found, nil
		case err != nil:
			return found, fmt.Errorf("read %s: %w", place, err)
		case total > maxFile:
			return found, fmt.Errorf("%s is larger than %d bytes", place, maxFile)
		}
		if len(buffer) > keep {
			buffer = append(buffer[:0], buffer[len(buffer)-keep:]...)
		}
	}
}

// process is a process of the host.
type process struct {
	pid  int
	args []string
}

func (p process) file(name string) string { return filepath.Join("/proc", strconv.Itoa(p.pid), name) }

func (p process) String() string {
	return fmt.Sprintf("%d (%.200s)", p.pid, strings.Join(p.args, " "))
}

// processes returns those of the host in whose command line one of the marks is.
func processes(marks ...string) ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list the processes of this host: %w", err)
	}
	var all []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// One that has ended meanwhile has no command line.
		data, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if slices.ContainsFunc(marks, func(m string) bool { return bytes.Contains(data, []byte(m)) }) {
			all = append(all, process{pid, strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")})
		}
	}
	return all, nil
}

// namespacesWith returns, of all mount namespaces of the host, the mounts in which
// one of the marks is.
func namespacesWith(marks ...string) ([]string, error) {
	entries, err := filepath.Glob("/proc/[0-9]*/ns/mnt")
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var found []string
	for _, link := range entries {
		ns, err := os.Readlink(link)
		if err != nil || seen[ns] {
			continue
		}
		data, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(link)), "mountinfo"))
		if err != nil {
			continue // it has ended
		}
		seen[ns] = true
		for line := range strings.Lines(string(data)) {
			if slices.ContainsFunc(marks, func(m string) bool { return strings.Contains(line, m) }) {
				found = append(found, "a mount in "+ns+": "+strings.TrimSpace(line))
			}
		}
	}
	return found, nil
}

// mountsOf are the mounts that a process sees.
func mountsOf(p process) ([]*mountinfo.Info, error) {
	f, err := os.Open(p.file("mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("read what %s sees: %w", p, err)
	}
	defer func() { _ = f.Close() }() // it was read from only
	return mountinfo.GetMountsFromReader(f, nil)
}

// identity is what a file is, whatever it is called.
type identity struct{ device, inode uint64 }

func identify(path string) (identity, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return identity{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return identity{st.Dev, st.Ino}, nil
}

// dumps are where the host's kernel, or what it hands a dump to, may leave one.
func dumps() []string {
	places := []string{"/var/crash", "/var/lib/systemd/coredump", "/var/cache/abrt", "/var/spool/abrt", "/var/lib/apport/coredump"}
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if dir := filepath.Dir(strings.TrimSpace(string(pattern))); err == nil && filepath.IsAbs(dir) && dir != "/" {
		places = append(places, dir)
	}
	return places
}

// scraps are where programs leave what they do not need any more.
func scraps() []string {
	places := []string{"/tmp", "/var/tmp", "/dev/shm"}
	if dir := os.TempDir(); !slices.Contains(places, dir) {
		places = append(places, dir)
	}
	return places
}

// left lists what the host still has of a container: processes, mounts, its run
// directory, its bundle, cgroups.
func (s *scratch) left(id string) ([]string, error) {
	var all []string
	dir := s.vmDir(id)
	marks := []string{id, filepath.Base(dir)}
	running, err := processes(marks...)
	if err != nil {
		return nil, err
	}
	for _, p := range running {
		all = append(all, "the process "+p.String())
	}
	for _, path := range append(s.bundles(id), dir) {
		if _, err := os.Lstat(path); err == nil {
			all = append(all, "the folder "+path)
		}
	}
	mounts, err := namespacesWith(marks...)
	if err != nil {
		return nil, err
	}
	all = append(all, mounts...)
	for _, pattern := range []string{"/sys/fs/cgroup/*/" + scratchName + "/*", "/sys/fs/cgroup/" + scratchName + "/*"} {
		groups, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, group := range groups {
			if strings.Contains(group, id) {
				all = append(all, "the cgroup "+group)
			}
		}
	}
	return all, nil
}
