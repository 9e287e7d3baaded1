package stdio

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ConsoleSocket is where crun sends the controlling side of a new terminal.
type ConsoleSocket struct {
	path     string
	listener *net.UnixListener
}

var consoles atomic.Uint64

// NewConsoleSocket listens in dir, which must be private and short.
func NewConsoleSocket(dir string) (*ConsoleSocket, error) {
	path := filepath.Join(dir, strconv.FormatUint(consoles.Add(1), 36))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for a terminal: %w", err)
	}
	return &ConsoleSocket{path: path, listener: l}, nil
}

// Path returns the socket's path, for crun.
func (s *ConsoleSocket) Path() string { return s.path }

// Receive waits for the terminal. Its file is in non-blocking mode.
func (s *ConsoleSocket) Receive(ctx context.Context) (*os.File, error) {
	stop := context.AfterFunc(ctx, func() { _ = s.listener.Close() })
	defer stop()
	conn, err := s.listener.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("wait for the terminal: %w", errors.Join(ctx.Err(), err))
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetReadDeadline(deadline); err != nil {
			return nil, err
		}
	}
	name := make([]byte, 4096)
	oob := make([]byte, unix.CmsgSpace(4))
	_, oobn, _, _, err := conn.ReadMsgUnix(name, oob)
	if err != nil {
		return nil, fmt.Errorf("receive the terminal: %w", err)
	}
	fd, err := descriptor(oob[:oobn])
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("receive the terminal: %w", err)
	}
	return os.NewFile(uintptr(fd), "terminal"), nil
}

func descriptor(oob []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return -1, errors.New("crun sent no terminal")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.New("crun sent no terminal")
	}
	return fds[0], nil
}

// Close stops listening and removes the socket.
func (s *ConsoleSocket) Close() { _ = s.listener.Close() }

// resize sets the size of a terminal.
func resize(terminal *os.File, width, height uint16) error {
	raw, err := terminal.SyscallConn()
	if err != nil {
		return err
	}
	var ierr error
	err = raw.Control(func(fd uintptr) {
		ierr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height})
	})
	return errors.Join(err, ierr)
}
