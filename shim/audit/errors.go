package audit

import (
	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/shim/wording"
)

var words = map[unix.Errno]string{
	unix.EPERM:  "the host does not permit it",
	unix.ELOOP:  "it is a symbolic link",
	unix.ENOSPC: "the disk is full",
	unix.EDQUOT: "the disk quota is used up",
	unix.EROFS:  "its file system is read-only",
}

// plain rewords the errors of system calls on the log's files.
func plain(err error) error { return wording.Errno(err, words) }
