package inguest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
)

// writeArchive writes an initramfs (cpio, "newc") with these files, by name,
// each a program, and the folders that they are in.
func writeArchive(to string, files map[string]string) (err error) {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := &archive{to: bufio.NewWriter(f), folders: make(map[string]bool)}
	// The kernel gives its init a console only where /dev/console is.
	if err := w.entry("dev", 0o40755, nil, 0, 0, 0); err != nil {
		return err
	}
	if err := w.entry("dev/console", 0o20600, nil, 0, 5, 1); err != nil {
		return err
	}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := w.file(name, files[name]); err != nil {
			return err
		}
	}
	if err := w.entry("TRAILER!!!", 0, nil, 0, 0, 0); err != nil {
		return err
	}
	return w.to.Flush()
}

type archive struct {
	to      *bufio.Writer
	folders map[string]bool
	inodes  int
}

func (w *archive) file(name, from string) error {
	for dir := path.Dir(name); dir != "." && !w.folders[dir]; dir = path.Dir(dir) {
		w.folders[dir] = true
		if err := w.entry(dir, 0o40755, nil, 0, 0, 0); err != nil {
			return err
		}
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return w.entry(name, 0o100755, f, st.Size(), 0, 0)
}

func (w *archive) entry(name string, mode int, content io.Reader, size int64, major, minor int) error {
	w.inodes++
	header := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		w.inodes, mode, 0, 0, 1, 0, size, 0, 0, major, minor, len(name)+1, 0)
	if _, err := w.to.WriteString(header + name + "\x00"); err != nil {
		return err
	}
	if err := w.pad(len(header) + len(name) + 1); err != nil {
		return err
	}
	if content == nil {
		return nil
	}
	if _, err := io.CopyN(w.to, content, size); err != nil {
		return err
	}
	return w.pad(int(size % 4))
}

func (w *archive) pad(n int) error {
	_, err := w.to.Write(make([]byte, (4-n%4)%4))
	return err
}
