// Package hostfile finds what the source of a mount is on this host, for
// commands that explain. It is not what the runtime judges by: that resolves to
// a descriptor, and sees bind mounts; this only follows names.
package hostfile

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/annotations"
)

// Resolve follows a source's symbolic links and tells what is there, and which
// of the policy's probes it holds.
func Resolve(source string, p *annotations.Policy) (annotations.Source, error) {
	s := annotations.Source{Asked: source}
	absolute, err := filepath.Abs(source)
	if err != nil {
		return s, fmt.Errorf("make %s absolute: %w", source, err)
	}
	if s.Path, err = filepath.EvalSymlinks(absolute); err != nil {
		return s, fmt.Errorf("resolve the mount's source: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(s.Path, &st); err != nil {
		return s, fmt.Errorf("look at %s: %w", s.Path, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		s.Kind = annotations.KindDir
		s.Holds = holds(s.Path, p.Probes())
	case unix.S_IFREG:
		s.Kind = annotations.KindFile
	case unix.S_IFSOCK:
		s.Kind = annotations.KindSocket
	case unix.S_IFIFO:
		s.Kind = annotations.KindFIFO
	case unix.S_IFCHR:
		s.Kind = annotations.KindChar
		s.Major, s.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	default:
		s.Kind = annotations.KindBlock
	}
	return s, nil
}

// holds returns which probes exist in a folder, or in a home folder below it.
func holds(folder string, probes []string) []string {
	var found []string
	look := func(below string) {
		for _, probe := range probes {
			name := filepath.Join(below, probe)
			if _, err := os.Lstat(filepath.Join(folder, name)); err == nil {
				found = append(found, name)
			}
		}
	}
	look("")
	if annotations.HomeParent(folder) {
		// A folder that cannot be read holds nothing that can be named.
		homes, _ := os.ReadDir(folder)
		for _, home := range homes {
			look(home.Name())
		}
	}
	return found
}
