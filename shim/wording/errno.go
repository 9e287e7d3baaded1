package wording

import (
	"errors"

	"golang.org/x/sys/unix"
)

// errnos are what is said of a file in the place of the kernel's own words.
var errnos = map[unix.Errno]string{
	unix.ENOENT:  "it does not exist",
	unix.EACCES:  "the host denies access to it",
	unix.ENOTDIR: "a part of its path is a file",
	unix.EISDIR:  "it is a folder",
}

// Errno returns the error of a system call with a text that names no file and
// holds none of those phrases, where there is one: in more, or for the common
// ones. It still is that error; any other is returned as it is.
func Errno(err error, more map[unix.Errno]string) error {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err
	}
	words, ok := more[errno]
	if !ok {
		words, ok = errnos[errno]
	}
	if !ok {
		return err
	}
	return reworded{words, errno}
}

type reworded struct {
	text string
	err  error
}

func (r reworded) Error() string { return r.text }
func (r reworded) Unwrap() error { return r.err }
