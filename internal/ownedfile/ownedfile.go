// Package ownedfile reads small files of the host that decide something, or that
// hold a secret: only who may decide can have written them. It is not for files
// that a container has anything to do with.
package ownedfile

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Kind is what a file is, and who may get at it.
type Kind struct {
	// Name is what it is called in messages: "the policy file".
	Name string
	// Max is how many bytes it has at most.
	Max int64
	// Private: others than its owner and the owner's group cannot read it.
	Private bool
}

// Read reads a regular file that belongs to root, or to whom this process runs
// as, and that nobody else can write. All is judged on the open file.
func Read(k Kind, path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", k.Name, &os.PathError{Op: "open", Path: path, Err: err})
	}
	f := os.NewFile(uintptr(fd), path)
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("examine %s %s: %w", k.Name, path, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, fmt.Errorf("%s %s is not a regular file", k.Name, path)
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return nil, fmt.Errorf("%s %s belongs to user %d and must belong to root (chown root %s)", k.Name, path, st.Uid, path)
	case st.Mode&0o022 != 0:
		return nil, fmt.Errorf("%s %s can be written by others than its owner (chmod go-w %s)", k.Name, path, path)
	case k.Private && st.Mode&0o007 != 0:
		return nil, fmt.Errorf("%s %s can be read by everybody on this host (chmod o-rwx %s)", k.Name, path, path)
	}
	data, err := io.ReadAll(io.LimitReader(f, k.Max+1))
	if err != nil {
		return nil, fmt.Errorf("read %s %s: %w", k.Name, path, err)
	}
	if int64(len(data)) > k.Max {
		return nil, fmt.Errorf("%s %s is over %d bytes", k.Name, path, k.Max)
	}
	return data, nil
}
