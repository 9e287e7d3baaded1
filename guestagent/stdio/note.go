package stdio

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// maxNote is what a pipe takes whole or not at all.
const maxNote = 4096

// Note puts a line among what the process writes to stderr, or to its terminal.
// It waits for nobody: where there is no room for the line, or nobody to read
// it any more, it is left out. After the process's end there is somebody as long
// as it is held.
//
// It goes in by the end that is ours. Which file the process has open as its
// descriptor 2 is the process's choice, and no place for the agent to write to.
func (p *Process) Note(line string) {
	b := []byte(line)
	b = append(b[:min(len(b), maxNote-1)], '\n')
	switch {
	case p.stderr != nil:
		p.stderr.note(b, func(fd int) (int, error) {
			// The same pipe, opened for writing.
			return unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		})
	case p.terminal && p.stdout != nil:
		// Not the one that is held: the end of the session hangs that up.
		p.stdout.note(b, peer)
	}
}

// peer opens the process's side of a terminal.
func peer(fd int) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func (o *Output) note(b []byte, other func(fd int) (int, error)) {
	_ = o.raw.Control(func(fd uintptr) {
		end, err := other(int(fd))
		if err != nil {
			return
		}
		_, _ = unix.Write(end, b)
		_ = unix.Close(end)
	})
}
