package share

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/shim/wording"
)

var words = map[unix.Errno]string{
	unix.ELOOP: "its path goes through /proc's links to open files, or through too many symbolic links",
}

// plain rewords the errors of system calls on what is shared. Its callers name
// the file.
func plain(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return wording.Errno(errno, words)
	}
	return err
}
