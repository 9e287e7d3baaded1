package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/nanoclaw/nanoclaw/api/stream"
)

// readyLimit is how long a logger may take to say that it reads.
const readyLimit = 10 * time.Second

// logger is a program of the host's that takes a process's output, as containerd
// has it: it reads stdout from descriptor 3 and stderr from 4, and closes 5, or
// writes to it, when it is ready. Its environment says whose output it is. It ends
// by itself when both its inputs have ended.
type logger struct {
	cmd     *exec.Cmd
	writers map[stream.Kind]*os.File
	// open counts the streams that are not closed yet.
	open sync.WaitGroup
}

// startLogger starts the program that a URL of the form binary:///PATH?KEY=VALUE
// names, with keys and values as its arguments, and waits until it is ready.
func startLogger(ctx context.Context, u *url.URL, p Paths) (_ *logger, err error) {
	if !filepath.IsAbs(u.Path) {
		return nil, fmt.Errorf("the logging program %q is not an absolute path: %w", u.Path, errdefs.ErrInvalidArgument)
	}
	var ours, theirs [3]*os.File
	defer func() {
		closeAll(theirs[:])
		if err != nil {
			closeAll(ours[:])
		}
	}()
	for i := range ours {
		if theirs[i], ours[i], err = os.Pipe(); err != nil {
			return nil, err
		}
	}
	// The third one is written by the program.
	ours[2], theirs[2] = theirs[2], ours[2]

	query := u.Query()
	var args []string
	for _, key := range slices.Sorted(maps.Keys(query)) {
		args = append(args, key, query.Get(key))
	}
	cmd := exec.Command(u.Path, args...) //nolint:gosec,noctx // containerd's client names it, who is the host's root; it outlives the call
	cmd.Env = []string{"CONTAINER_ID=" + p.ID, "CONTAINER_NAMESPACE=" + p.Namespace}
	cmd.ExtraFiles = theirs[:]
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the logging program: %w", err)
	}
	closeAll(theirs[:])
	if err := ready(ours[2]); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, fmt.Errorf("the logging program %s: %w", u.Path, err)
	}
	l := &logger{cmd: cmd, writers: map[stream.Kind]*os.File{stream.Stdout: ours[0], stream.Stderr: ours[1]}}
	l.open.Add(len(l.writers))
	go l.reap(context.WithoutCancel(ctx))
	return l, nil
}

// ready waits until the program says that it reads.
func ready(from *os.File) error {
	if err := from.SetReadDeadline(time.Now().Add(readyLimit)); err != nil {
		return err
	}
	if _, err := from.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("it has not said within %s that it is ready (by closing descriptor 5): %w", readyLimit, err)
	}
	return from.Close()
}

// sink is where one of the streams goes. It can be taken once.
func (l *logger) sink(kind stream.Kind) io.WriteCloser {
	f := l.writers[kind]
	delete(l.writers, kind)
	return &loggerSink{File: f, closed: sync.OnceValue(func() error {
		defer l.open.Done()
		return f.Close()
	})}
}

// release ends the inputs that nobody has taken.
func (l *logger) release() {
	for kind := range l.writers {
		_ = l.sink(kind).Close()
	}
}

type loggerSink struct {
	*os.File
	closed func() error
}

// Close implements io.Closer.
func (s *loggerSink) Close() error { return s.closed() }

// reap waits for the program's end, and asks for it where it does not see that it
// has nothing to read any more.
func (l *logger) reap(ctx context.Context) {
	ended := make(chan error, 1)
	go func() { ended <- l.cmd.Wait() }()
	l.open.Wait()
	for _, signal := range []syscall.Signal{0, syscall.SIGTERM, syscall.SIGKILL} {
		if signal != 0 {
			_ = l.cmd.Process.Signal(signal)
		}
		select {
		case err := <-ended:
			if err != nil {
				log.G(ctx).WithError(err).Warnf("the logging program %s ended with a failure", l.cmd.Path)
			}
			return
		case <-time.After(linger):
		}
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // of a nil one, an error that says nothing
	}
}
