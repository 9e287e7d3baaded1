package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// command is what a client asks for.
type command struct {
	Folder string   `json:"folder"`
	Args   []string `json:"args"`
	// Terminal, if not nil, is the size of the terminal that the command gets.
	Terminal *unix.Winsize `json:"terminal,omitempty"`
	// Term is the terminal's type.
	Term string `json:"term,omitempty"`
}

// failed is the exit status where the command's own is not known, as with ssh.
const failed = 255

// run has the server run a command and returns its exit status.
func run(address, folder string, args []string) (int, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return failed, err
	}
	c := command{Folder: folder, Args: args}
	if size, err := unix.IoctlGetWinsize(1, unix.TIOCGWINSZ); err == nil {
		if restore, err := raw(0); err == nil {
			defer restore()
			c.Terminal, c.Term = size, os.Getenv("TERM")
		}
	}
	return converse(conn, c, os.Stdin, os.Stdout, os.Stderr)
}

// converse asks for a command and passes its streams on until it ends.
func converse(conn io.ReadWriter, c command, in io.Reader, out, errs io.Writer) (int, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return failed, err
	}
	to := &frames{w: conn}
	if err := to.send(request, text); err != nil {
		return failed, err
	}
	// It may wait for input when the command has ended: the process's end ends it.
	go func() {
		_, _ = io.Copy(stream{to, stdin}, in)
		_ = to.send(stdin, nil)
	}()
	for {
		k, payload, err := receive(conn)
		switch {
		case errors.Is(err, io.EOF):
			return failed, errors.New("the machine closed the connection")
		case err != nil:
			return failed, err
		case k == stdout:
			_, err = out.Write(payload)
		case k == stderr:
			_, err = errs.Write(payload)
		case k == exit && len(payload) == 1:
			return int(payload[0]), nil
		case k == failure:
			return failed, errors.New(string(payload))
		default:
			return failed, fmt.Errorf("an unknown frame, %d", k)
		}
		if err != nil {
			return failed, err
		}
	}
}

// raw has a terminal pass all that is typed on, and returns what undoes it.
func raw(fd int) (restore func(), err error) {
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	t := *old
	t.Iflag &^= unix.BRKINT | unix.ICRNL | unix.INLCR | unix.IGNCR | unix.ISTRIP | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ICANON | unix.IEXTEN | unix.ISIG
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &t); err != nil {
		return nil, err
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, old) }, nil
}
