package audit

import (
	"errors"

	"golang.org/x/sys/unix"
)

// plain rewords the errors of system calls whose usual text Docker takes for a
// failure of the container's command: it would report exit code 126 or 127 for a
// log that could not be written.
func plain(err error) error {
	words := map[unix.Errno]string{
		unix.ENOENT:  "it does not exist",
		unix.EACCES:  "the host denies access to it",
		unix.EPERM:   "the host does not permit it",
		unix.ENOTDIR: "a part of its path is a file",
		unix.EISDIR:  "it is a folder",
		unix.ELOOP:   "it is a symbolic link",
		unix.ENOSPC:  "the disk is full",
		unix.EDQUOT:  "the disk quota is used up",
		unix.EROFS:   "its file system is read-only",
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		if w, ok := words[errno]; ok {
			return reworded{w, errno}
		}
	}
	return err
}

type reworded struct {
	text string
	err  error
}

func (r reworded) Error() string { return r.text }
func (r reworded) Unwrap() error { return r.err }
