package share

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/internal/cleanup"
)

// Since version 2.2, containerd's snapshotters may describe a root file system in
// steps: mounts that are made beside it, and a last one that names them, as
// "format/mkdir/overlay" with lowerdir={{ mount 1 }}. containerd carries these out
// itself unless it is told to leave it to the runtime.
const (
	formatPrefix = "format/"
	mkdirPrefix  = "mkdir/"
	mkdirOption  = "X-containerd.mkdir.path="

	// maxSteps bounds the mounts of one root file system: an image has at most
	// 128 layers.
	maxSteps = 256
)

func isFormatted(kind string) bool {
	return strings.HasPrefix(kind, formatPrefix) || strings.HasPrefix(kind, mkdirPrefix)
}

// mountSteps makes each of mounts but the last at a folder of its own below
// beside, and the last one at target. It returns how to unmount them.
func mountSteps(mounts []mount.Mount, target, beside string) (_ *cleanup.Stack, err error) {
	if len(mounts) > maxSteps {
		return nil, fmt.Errorf("it has %d mounts, more than %d", len(mounts), maxSteps)
	}
	undo := &cleanup.Stack{}
	defer func() {
		if err != nil {
			err = errors.Join(err, undo.Run())
		}
	}()
	if err := os.Mkdir(beside, 0o700); err != nil {
		return nil, err
	}
	undo.Add("remove "+beside, func() error { return os.Remove(beside) })
	var made []step
	for i, m := range mounts {
		if m, err = transform(m, made); err != nil {
			return nil, fmt.Errorf("mount %d: %w", i, err)
		}
		where := target
		if i < len(mounts)-1 {
			where = filepath.Join(beside, strconv.Itoa(i))
			if err := os.Mkdir(where, 0o700); err != nil {
				return nil, err
			}
			undo.Add("remove "+where, func() error { return os.Remove(where) })
		}
		if err := mount.All([]mount.Mount{m}, where); err != nil {
			return nil, fmt.Errorf("mount %d, %s: %w", i, m.Type, plain(err))
		}
		undo.Add("unmount "+where, func() error { return mount.UnmountAll(where, unix.MNT_DETACH) })
		made = append(made, step{source: m.Source, target: m.Target, at: where})
	}
	return undo, nil
}

// step is a mount that was made.
type step struct{ source, target, at string }

// transform carries out what the type of a mount asks for before its name, and
// leaves the mount as the kernel takes it.
func transform(m mount.Mount, made []step) (mount.Mount, error) {
	if kind, ok := strings.CutPrefix(m.Type, formatPrefix); ok {
		m.Type = kind
		options := make([]string, len(m.Options))
		for i, text := range m.Options {
			var err error
			if options[i], err = format(text, made); err != nil {
				return m, err
			}
		}
		var errSource, errTarget error
		m.Options = options
		m.Source, errSource = format(m.Source, made)
		m.Target, errTarget = format(m.Target, made)
		if err := errors.Join(errSource, errTarget); err != nil {
			return m, err
		}
	}
	if kind, ok := strings.CutPrefix(m.Type, mkdirPrefix); ok {
		m.Type = kind
		var options []string
		for _, o := range m.Options {
			what, ok := strings.CutPrefix(o, mkdirOption)
			if !ok {
				options = append(options, o)
				continue
			}
			if err := makeFolder(what, made); err != nil {
				return m, fmt.Errorf("%s: %w", o, err)
			}
		}
		m.Options = options
	}
	if strings.Contains(m.Type, "/") {
		return m, fmt.Errorf("the mount type %q is not known", m.Type)
	}
	return m, nil
}

// reference is what stands for an earlier mount in a text.
var reference = regexp.MustCompile(`\{\{\s*(source|target|mount|overlay)\s+(\d{1,3})(?:\s+(\d{1,3}))?\s*\}\}`)

// format puts in for each reference what it stands for. {{ overlay 3 1 }} are the
// places of mounts 3 to 1.
func format(text string, made []step) (string, error) {
	var errs []error
	out := reference.ReplaceAllStringFunc(text, func(r string) string {
		part := reference.FindStringSubmatch(r)
		first, _ := strconv.Atoi(part[2]) // three digits at most
		last, _ := strconv.Atoi(part[3])
		if (part[1] == "overlay") != (part[3] != "") || first >= len(made) || last >= len(made) {
			errs = append(errs, fmt.Errorf("%q names no mount that was made before", r))
			return ""
		}
		switch part[1] {
		case "source":
			return made[first].source
		case "target":
			return made[first].target
		case "mount":
			return made[first].at
		}
		places := []string{made[first].at}
		for i := first; i != last; {
			if i < last {
				i++
			} else {
				i--
			}
			places = append(places, made[i].at)
		}
		return strings.Join(places, ":")
	})
	if strings.Contains(reference.ReplaceAllString(text, ""), "{{") {
		errs = append(errs, fmt.Errorf("%q has a reference that is not known", text))
	}
	return out, errors.Join(errs...)
}

// makeFolder makes a folder, given as PATH[:MODE[:UID:GID]], in one of the mounts
// that were made; what is in there leads nowhere else.
func makeFolder(what string, made []step) (err error) {
	part := strings.Split(what, ":")
	mode := uint64(0o700)
	if len(part) > 1 {
		if mode, err = strconv.ParseUint(part[1], 8, 9); err != nil {
			return errors.New("the mode is none")
		}
	}
	var uid, gid uint64
	switch len(part) {
	case 1, 2:
	case 4:
		var errUID, errGID error
		uid, errUID = strconv.ParseUint(part[2], 10, 31)
		gid, errGID = strconv.ParseUint(part[3], 10, 31)
		if errUID != nil || errGID != nil {
			return errors.New("the owner is none")
		}
	default:
		return errors.New("this is not PATH:MODE:UID:GID")
	}
	for _, s := range made {
		name, ok := relative(filepath.Clean(part[0]), s.at)
		if !ok || name == "" {
			continue
		}
		root, err := os.OpenRoot(s.at)
		if err != nil {
			return err
		}
		defer closeQuietly(root)
		if err := root.MkdirAll(name, os.FileMode(mode)); err != nil {
			return err
		}
		return errors.Join(root.Chmod(name, os.FileMode(mode)), root.Lchown(name, int(uid), int(gid)))
	}
	return errors.New("the folder lies in no mount that was made before")
}
