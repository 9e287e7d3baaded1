// Package streamtest gives tests of streams a connection that buffers, as a
// vsock connection does. net.Pipe does not: an answer would wait there for a
// sender that waits to send. It is not for anything but tests.
package streamtest

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Pipe returns the two ends of a connection. It panics where none can be made.
func Pipe() (net.Conn, net.Conn) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	return conn(fds[0]), conn(fds[1])
}

func conn(fd int) net.Conn {
	f := os.NewFile(uintptr(fd), "pipe")
	c, err := net.FileConn(f)
	if err != nil {
		panic(err)
	}
	_ = f.Close()
	return c
}
