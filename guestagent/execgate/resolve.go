package execgate

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits of what patterns may stand for.
const (
	maxFiles   = 16384
	maxFolders = 16384
	maxDepth   = 32
)

// key identifies a file as long as a descriptor of it is open.
type key struct {
	dev, ino uint64
}

// file is one file that rules are about.
type file struct {
	// held keeps the kernel's memory of the file, and with it the label.
	held *os.File
	// name is a path by which it was found.
	name string
	// rules are the numbers of those about it, in order.
	rules []int
	// trusted: it counts as the image's.
	trusted bool
}

// files are those that the rules of a policy are about.
type files map[key]*file

// Close lets them go.
func (f files) Close() {
	for _, one := range f {
		_ = one.held.Close()
	}
}

// container looks names up as the container does, from outside. No name leads
// out of it, and none through a link of /proc.
type container struct {
	root int
}

func (c container) open(name string, flags uint64) (*os.File, error) {
	fd, err := unix.Openat2(c.root, name, &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// missing reports whether there is nothing at a path that rules are about.
func missing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EACCES)
}

// resolve finds the files that p's rules are about.
func (c container) resolve(p *Policy) (_ files, err error) {
	found := make(files)
	defer func() {
		if err != nil {
			found.Close()
		}
	}()
	for i := range p.Rules {
		names, err := c.expand(p.Rules[i].Path)
		if err != nil {
			return nil, fmt.Errorf("rule %s: %w", p.Rules[i].label(), err)
		}
		for _, name := range names {
			if err := c.add(found, i, &p.Rules[i], name); err != nil {
				return nil, fmt.Errorf("rule %s: %w", p.Rules[i].label(), err)
			}
		}
	}
	for _, name := range p.Trusted {
		if err := c.trust(found, name); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// label is how a rule is called.
func (r *Rule) label() string {
	if r.Rule == "" {
		return fmt.Sprintf("%q", r.Path)
	}
	return fmt.Sprintf("%q", r.Rule)
}

func (c container) add(found files, number int, r *Rule, name string) error {
	one, err := c.find(found, name, r.SHA256)
	if err != nil {
		return err
	}
	if one != nil && !slices.Contains(one.rules, number) {
		one.rules = append(one.rules, number)
	}
	return nil
}

func (c container) trust(found files, name string) error {
	one, err := c.find(found, name, nil)
	if err != nil {
		return fmt.Errorf("trusted file: %w", err)
	}
	if one != nil {
		one.trusted = true
	}
	return nil
}

// find returns the file at name, or nil if there is none, or none with this
// content. What is not there cannot be the program that a rule is about.
func (c container) find(found files, name string, sum []byte) (*file, error) {
	held, err := c.open(name, unix.O_PATH)
	if err != nil {
		if missing(err) {
			return nil, nil
		}
		return nil, err
	}
	kept := false
	defer func() {
		if !kept {
			_ = held.Close()
		}
	}()
	var st unix.Stat_t
	if err := unix.Fstat(int(held.Fd()), &st); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, nil
	}
	if sum != nil {
		is, err := hasDigest(held, sum)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if !is {
			return nil, nil
		}
	}
	k := key{dev: st.Dev, ino: st.Ino}
	one := found[k]
	if one == nil {
		if len(found) >= maxFiles {
			return nil, fmt.Errorf("the rules are about more than %d files", maxFiles)
		}
		one, kept = &file{held: held, name: name}, true
		found[k] = one
	}
	return one, nil
}

func hasDigest(held *os.File, sum []byte) (bool, error) {
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", held.Fd()))
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return false, err
	}
	return bytes.Equal(h.Sum(nil), sum), nil
}

// expand returns the paths that pattern stands for; a plain path stands for
// itself, whether there is something or not.
func (c container) expand(pattern string) ([]string, error) {
	parts := strings.Split(strings.Trim(path.Clean(pattern), "/"), "/")
	if !isPattern(pattern) {
		return []string{"/" + strings.Join(parts, "/")}, nil
	}
	w := &walk{container: c}
	err := w.expand("/", parts, 0)
	return w.names, err
}

func isPattern(s string) bool { return strings.ContainsAny(s, `*?[\`) }

type walk struct {
	container
	names   []string
	folders int
}

func (w *walk) expand(at string, parts []string, depth int) error {
	if depth > maxDepth {
		return nil
	}
	if len(parts) == 0 {
		if len(w.names) >= maxFiles {
			return fmt.Errorf("it stands for more than %d files", maxFiles)
		}
		w.names = append(w.names, at)
		return nil
	}
	part, rest := parts[0], parts[1:]
	if !isPattern(part) {
		return w.expand(path.Join(at, part), rest, depth+1)
	}
	if part == "**" {
		if err := w.expand(at, rest, depth+1); err != nil {
			return err
		}
	}
	entries, err := w.list(at)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if part == "**" {
			// Links to folders are not followed, or this would not end.
			next := parts
			if !e.IsDir() {
				if len(rest) > 0 {
					continue
				}
				next = nil
			}
			if err := w.expand(path.Join(at, e.Name()), next, depth+1); err != nil {
				return err
			}
			continue
		}
		if ok, err := path.Match(part, e.Name()); err != nil || !ok {
			continue
		}
		if err := w.expand(path.Join(at, e.Name()), rest, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) list(dir string) ([]fs.DirEntry, error) {
	if w.folders++; w.folders > maxFolders {
		return nil, fmt.Errorf("more than %d folders have to be searched for it", maxFolders)
	}
	f, err := w.open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		if missing(err) {
			return nil, nil
		}
		return nil, err
	}
	defer func() { _ = f.Close() }()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	return entries, nil
}
