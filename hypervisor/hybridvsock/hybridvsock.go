// Package hybridvsock speaks the host's side of "hybrid" vsock: the Unix
// socket that Cloud Hypervisor and vhost-device-vsock put in place of a vsock
// address family on the host.
//
// The host reaches port P of the guest by connecting to the socket and sending
// "CONNECT P"; the guest reaches port P of the host where somebody listens at
// the socket's path with "_P" appended.
//
// It does not retry: a guest that is still booting leaves the connection
// waiting in the device's backlog, and one in which nobody listens closes it.
package hybridvsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// maxReply bounds the device's answer to CONNECT. The longest genuine one is
// "OK 4294967295\n".
const maxReply = 32

// ErrRefused is wrapped by Dial's error when the device closed the connection:
// nobody in the guest listens on the port.
var ErrRefused = errors.New("connection refused by the guest")

// Dial connects to a port of the guest behind the socket at path. The
// handshake ends with ctx.
func Dial(ctx context.Context, path string, port uint32) (_ net.Conn, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("connect to vsock device: its socket is gone, since somebody has removed the VM's folder or a part of it; restart the container: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to vsock device: %w", err)
	}
	// Unblocks the handshake below when ctx ends.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return nil, fmt.Errorf("ask vsock device for port %d: %w", port, errors.Join(err, ctx.Err()))
	}
	if err := readOK(conn); err != nil {
		if cause := ctx.Err(); cause != nil {
			err = errors.Join(cause, err)
		}
		return nil, fmt.Errorf("connect to guest port %d: %w", port, err)
	}
	if !stop() {
		return nil, fmt.Errorf("connect to guest port %d: %w", port, ctx.Err())
	}
	return conn, nil
}

// readOK reads the device's answer byte by byte, because the guest's first
// bytes may follow it at once.
func readOK(r io.Reader) error {
	line := make([]byte, 0, maxReply)
	var b [1]byte
	for {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return ErrRefused
			}
			return err
		}
		if b[0] == '\n' {
			break
		}
		if len(line) == maxReply {
			return fmt.Errorf("vsock device answered more than %d bytes", maxReply)
		}
		line = append(line, b[0])
	}
	// What follows OK differs between devices (the host's or the guest's port).
	if !strings.HasPrefix(string(line), "OK ") {
		return fmt.Errorf("vsock device answered %q", line)
	}
	return nil
}

// ListenerPath is where the guest's connections to a port of the host arrive.
func ListenerPath(path string, port uint32) string {
	return path + "_" + strconv.FormatUint(uint64(port), 10)
}

// Listen listens for the guest's connections to a port of the host. It must be
// called before the guest boots: a connection that nobody listens for is reset.
// Closing the listener removes its socket.
func Listen(path string, port uint32) (*net.UnixListener, error) {
	name := ListenerPath(path, port)
	// A socket left by a killed predecessor would make bind fail.
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale vsock listener: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for the guest on port %d: %w", port, err)
	}
	l.SetUnlinkOnClose(true)
	return l, nil
}
