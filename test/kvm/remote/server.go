package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// drain is how long the output of a command that has ended is read on, where a
// process that it left behind holds it open.
const drain = time.Second

const searched = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"

// environment is what commands get, as with test/engine/enter.
var environment = []string{
	"PATH=" + searched, "HOME=/root", "LANG=C.UTF-8", "TMPDIR=/tmp",
	"DOCKER_HOST=unix:///run/docker.sock", "DOCKER_CONFIG=/etc/docker/client",
}

// serve runs commands for whoever connects, each on a connection of its own.
func serve(address string) error {
	// Commands are looked up as they would be where they run.
	if err := os.Setenv("PATH", searched); err != nil {
		return err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer func() { _ = conn.Close() }()
			if err := answer(conn); err != nil && !errors.Is(err, io.EOF) {
				log.Print(err)
			}
		}()
	}
}

// answer runs the command that one client asks for.
func answer(conn io.ReadWriter) error {
	k, payload, err := receive(conn)
	if err != nil {
		return err
	}
	var c command
	if err := json.Unmarshal(payload, &c); k != request || err != nil || len(c.Args) == 0 {
		return fmt.Errorf("no request: %d, %w", k, err)
	}
	to := &frames{w: conn}
	code, err := execute(c, conn, to)
	if err != nil {
		return to.send(failure, []byte(err.Error()))
	}
	return to.send(exit, []byte{byte(code)})
}

// execute runs a command to its end, or until the client is gone.
func execute(c command, in io.Reader, to *frames) (int, error) {
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Env = environment
	cmd.Dir = "/"
	if st, err := os.Stat(c.Folder); err == nil && st.IsDir() {
		cmd.Dir = c.Folder
	}
	cmd.WaitDelay = drain
	start := startPlain
	if c.Terminal != nil {
		start = startTerminal
	}
	input, drained, err := start(cmd, c, to)
	if err != nil {
		return 0, err
	}
	ended := make(chan struct{})
	go func() {
		feed(in, input, c.Terminal != nil)
		// The client has closed its input, or is gone, which alone ends the command.
		_, _, _ = receive(in)
		select {
		case <-ended:
		default:
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
	}()
	err = cmd.Wait()
	close(ended)
	drained()
	// A process left behind that holds the output is no failure of the command.
	if cmd.ProcessState == nil {
		return 0, err
	}
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// startPlain starts a command with streams of its own. What it returns is the
// command's input, and a function that waits for the rest of its output.
func startPlain(cmd *exec.Cmd, _ command, to *frames) (io.WriteCloser, func(), error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdout, cmd.Stderr = stream{to, stdout}, stream{to, stderr}
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	// Wait waits for the output too.
	return input, func() {}, cmd.Start()
}

// startTerminal starts a command on a terminal, and returns as startPlain does.
func startTerminal(cmd *exec.Cmd, c command, to *frames) (io.WriteCloser, func(), error) {
	master, slave, err := terminal(c.Terminal)
	if err != nil {
		return nil, nil, err
	}
	cmd.Env = append(slices.Clone(environment), "TERM="+c.Term)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	_ = slave.Close()
	if err != nil {
		_ = master.Close()
		return nil, nil, err
	}
	copied := make(chan struct{})
	go func() {
		// It ends with an error when the last process has closed the terminal.
		_, _ = io.Copy(stream{to, stdout}, master)
		close(copied)
	}()
	return master, func() {
		select {
		case <-copied:
		case <-time.After(drain):
		}
		_ = master.Close()
	}, nil
}

// feed passes the client's input on until it ends.
func feed(in io.Reader, input io.WriteCloser, terminal bool) {
	for {
		k, payload, err := receive(in)
		switch {
		case err != nil || k != stdin:
			return
		case len(payload) == 0:
			if !terminal {
				_ = input.Close()
			}
			return
		}
		// A command need not read its input.
		_, _ = input.Write(payload)
	}
}

// terminal makes a terminal and returns both its ends.
func terminal(size *unix.Winsize) (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, err
	}
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size); err != nil {
		return nil, nil, err
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	return master, slave, err
}
