// Package stdio joins the pipes that containerd gave a process to the streams
// that carry its input and output to and from the guest.
//
// Output is counted: the guest says how many bytes a process had written when
// it exited, and Drain waits until as many were passed on. A consumer that is
// slow slows the process down, as with runc; nothing is buffered beyond one
// frame a stream.
package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/fifo"
	"github.com/containerd/log"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/api/stream"
)

// linger is how long a stream's sender waits for its receiver to close.
const linger = 10 * time.Second

// openLimit is how long the client may take to open its end of an output pipe.
// It is waited for because what is written before, and the end, would be lost.
const openLimit = 10 * time.Second

// idleLimit is how long Drain waits for a consumer that takes nothing, or a
// guest that sends nothing of what it said it had sent.
const idleLimit = 10 * time.Second

// Paths are what containerd asks for: named pipes, or for output URLs: file:// and
// binary://. Empty: the process has no such stream.
type Paths struct {
	Stdin, Stdout, Stderr string
	Terminal              bool
	// Namespace and ID are the container's, for a program that takes its output.
	Namespace, ID string
}

// Opener connects a stream to the guest.
type Opener interface {
	OpenStream(ctx context.Context, h stream.Header) (net.Conn, error)
}

// Set is one process's streams.
type Set struct {
	stdio          agent.Stdio
	in             *input
	stdout, stderr *output
}

// Open opens the pipes and connects a stream for each of them. newID names the
// streams. The pumps run until their streams end or Close.
func Open(ctx context.Context, o Opener, p Paths, newID func() string) (_ *Set, err error) {
	s := &Set{stdio: agent.Stdio{Terminal: p.Terminal}}
	sinks := &sinks{paths: p}
	defer func() {
		sinks.done()
		if err != nil {
			s.Close()
		}
	}()
	if p.Stdout != "" {
		s.stdio.Stdout = newID()
		if s.stdout, err = openOutput(ctx, o, stream.Header{Kind: stream.Stdout, ID: s.stdio.Stdout}, p.Stdout, sinks); err != nil {
			return nil, err
		}
	}
	// A terminal has one stream for both.
	if p.Stderr != "" && !p.Terminal {
		s.stdio.Stderr = newID()
		if s.stderr, err = openOutput(ctx, o, stream.Header{Kind: stream.Stderr, ID: s.stdio.Stderr}, p.Stderr, sinks); err != nil {
			return nil, err
		}
	}
	if p.Stdin != "" {
		s.stdio.Stdin = newID()
		if s.in, err = openInput(ctx, o, stream.Header{Kind: stream.Stdin, ID: s.stdio.Stdin}, p.Stdin); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Stdio names the streams towards the guest.
func (s *Set) Stdio() *agent.Stdio {
	return &agent.Stdio{
		Stdin: s.stdio.Stdin, Stdout: s.stdio.Stdout, Stderr: s.stdio.Stderr, Terminal: s.stdio.Terminal,
	}
}

// CloseStdin lets the process read the end of its input, once everything that
// was written to the pipe has been sent.
func (s *Set) CloseStdin() {
	if s.in != nil {
		s.in.closeWriter()
	}
}

// Drain returns when as many bytes were passed on as the guest says the process
// wrote, or when nothing has moved for a while.
func (s *Set) Drain(ctx context.Context, stdout, stderr uint64) error {
	return errors.Join(s.stdout.drain(ctx, stdout), s.stderr.drain(ctx, stderr))
}

// FirstOutput is when the first byte of output came from the guest; zero where
// none has.
func (s *Set) FirstOutput() time.Time {
	first := s.stdout.firstByte()
	if at := s.stderr.firstByte(); first.IsZero() || !at.IsZero() && at.Before(first) {
		return at
	}
	return first
}

// Close ends every pump at once and closes the pipes.
func (s *Set) Close() {
	s.CloseStdin()
	if s.in != nil {
		s.in.cancel()
	}
	s.stdout.close()
	s.stderr.close()
}

// input is stdin.
type input struct {
	cancel context.CancelFunc

	mu     sync.Mutex
	writer io.Closer
}

func openInput(ctx context.Context, o Opener, h stream.Header, path string) (_ *input, err error) {
	// The pump outlives the call that opens it.
	pumpCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			cancel()
		}
	}()
	// Our reader first: it waits for nobody, and a writer can then be opened at
	// once, so that CloseStdin finds both, whenever it comes.
	reader, err := openPipe(path, os.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("open stdin: %w", err)
	}
	// A writer of our own keeps a client that goes away (an engine that is
	// restarted) from ending the process's input: only CloseIO does.
	writer, err := openPipe(path, os.O_WRONLY)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open stdin: %w", err), reader.Close())
	}
	in := &input{cancel: cancel, writer: writer}
	conn, err := o.OpenStream(ctx, h)
	if err != nil {
		return nil, errors.Join(err, reader.Close(), writer.Close())
	}
	context.AfterFunc(pumpCtx, func() {
		_ = reader.Close()
		_ = conn.Close()
	})
	go func() {
		defer cancel()
		w := stream.NewWriter(conn)
		if _, err := io.CopyBuffer(onlyWriter{w}, onlyReader{reader}, make([]byte, stream.MaxFrame)); err != nil {
			// The process is gone, or closed its input.
			return
		}
		_ = w.CloseStream(linger)
	}()
	return in, nil
}

// openPipe opens one end of a named pipe. It does not wait for the other.
func openPipe(path string, end int) (*os.File, error) {
	f, err := os.OpenFile(path, end|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode()&os.ModeNamedPipe == 0 {
		err = fmt.Errorf("%s is not a named pipe: %w", path, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (in *input) closeWriter() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.writer != nil {
		_ = in.writer.Close()
		in.writer = nil
	}
}

// onlyReader and onlyWriter hide what would make io.Copy use other buffers.
type onlyReader struct{ io.Reader }
type onlyWriter struct{ io.Writer }

// output is stdout or stderr. A nil output is one that the process has not.
type output struct {
	cancel context.CancelFunc

	mu     sync.Mutex
	first  time.Time
	passed uint64
	ended  bool
	// moved is closed and renewed with every change of the two above.
	moved chan struct{}
}

func openOutput(ctx context.Context, o Opener, h stream.Header, target string, sinks *sinks) (_ *output, err error) {
	pumpCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			cancel()
		}
	}()
	sink, err := sinks.open(ctx, h.Kind, target)
	if err != nil {
		return nil, fmt.Errorf("open %s %s: %w", h.Kind, target, err)
	}
	conn, err := o.OpenStream(ctx, h)
	if err != nil {
		return nil, errors.Join(err, sink.Close())
	}
	out := &output{cancel: cancel, moved: make(chan struct{})}
	stop := context.AfterFunc(pumpCtx, func() {
		_ = conn.Close()
		_ = sink.Close()
	})
	go func() {
		defer cancel()
		if err := out.pump(sink, stream.NewReader(conn)); err != nil && pumpCtx.Err() == nil {
			log.G(ctx).WithError(err).Warnf("%s ended early", h.Kind)
		}
		if stop() {
			// Closing tells the guest that all has arrived, and the client that
			// nothing more will.
			_ = conn.Close()
			_ = sink.Close()
		}
	}()
	return out, nil
}

func (o *output) pump(sink io.Writer, src io.Reader) error {
	defer o.progress(0, true)
	buf := make([]byte, stream.MaxFrame)
	var broken error
	for {
		n, err := src.Read(buf)
		if n > 0 {
			o.came()
		}
		if n > 0 && broken == nil {
			// A client that went away must not stop the process: what it
			// writes is read, and lost, as with runc.
			_, broken = sink.Write(buf[:n])
		}
		o.progress(n, false)
		if err == io.EOF {
			return broken
		}
		if err != nil {
			return err
		}
	}
}

// came notes the first byte's arrival, which is before it is passed on: a
// client that takes nothing does not delay it.
func (o *output) came() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.first.IsZero() {
		o.first = time.Now()
	}
}

func (o *output) firstByte() time.Time {
	if o == nil {
		return time.Time{}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.first
}

func (o *output) progress(n int, ended bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.passed += uint64(n)
	o.ended = o.ended || ended
	close(o.moved)
	o.moved = make(chan struct{})
}

func (o *output) drain(ctx context.Context, want uint64) error {
	if o == nil {
		return nil
	}
	for {
		o.mu.Lock()
		passed, ended, moved := o.passed, o.ended, o.moved
		o.mu.Unlock()
		if ended || passed >= want {
			return nil
		}
		idle := time.NewTimer(idleLimit)
		select {
		case <-moved:
			idle.Stop()
		case <-ctx.Done():
			idle.Stop()
			return ctx.Err()
		case <-idle.C:
			return fmt.Errorf("%d of %d bytes of output were passed on when nothing moved for %s", passed, want, idleLimit)
		}
	}
}

func (o *output) close() {
	if o != nil {
		o.cancel()
	}
}

// sinks opens where a process's output goes.
type sinks struct {
	paths Paths
	// logger takes both streams.
	logger *logger
}

func (s *sinks) open(ctx context.Context, kind stream.Kind, target string) (io.WriteCloser, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	switch u.Scheme {
	case "", "fifo":
		return openFifoSink(ctx, u.Path)
	case "file":
		return os.OpenFile(u.Path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	case "binary":
		if s.logger == nil {
			if s.logger, err = startLogger(ctx, u, s.paths); err != nil {
				return nil, err
			}
		}
		return s.logger.sink(kind), nil
	}
	return nil, fmt.Errorf("logging by %s:// is not supported, only pipes, file:// and binary://: %w", u.Scheme, errdefs.ErrNotImplemented)
}

// done ends what was opened for streams that the process has not.
func (s *sinks) done() {
	if s.logger != nil {
		s.logger.release()
	}
}

// fifoSink holds a pipe's reading end too, so that a client that goes away and
// comes back finds the pipe as it was, and the pump does not fail meanwhile.
type fifoSink struct {
	io.WriteCloser
	reader io.Closer
}

func openFifoSink(ctx context.Context, path string) (io.WriteCloser, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode()&os.ModeNamedPipe == 0 {
		return os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	}
	// Opening ends with ctx; what is open does not.
	ctx, cancel := context.WithTimeoutCause(ctx, openLimit, fmt.Errorf("nobody has opened it to read within %s", openLimit))
	defer cancel()
	w, err := fifo.OpenFifo(ctx, path, syscall.O_WRONLY, 0)
	if err != nil {
		return nil, errors.Join(err, context.Cause(ctx))
	}
	r, err := fifo.OpenFifo(ctx, path, syscall.O_RDONLY, 0)
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return &fifoSink{w, r}, nil
}

// Close implements io.Closer.
func (f *fifoSink) Close() error {
	return errors.Join(f.WriteCloser.Close(), f.reader.Close())
}
