package stdio

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/nanoclaw/nanoclaw/api/stream"
	"golang.org/x/sys/unix"
)

// linger is how long the end of a stream waits for the host to close it.
const linger = 10 * time.Second

// Output carries what a process writes to a pipe or terminal to the host, in
// order. It holds at most one frame: a host that does not read stops the
// process, as a full pipe does. When the host has closed the stream, the rest
// is discarded, so that the process is not stopped for ever.
type Output struct {
	source *os.File
	raw    syscall.RawConn
	conn   net.Conn

	mu      sync.Mutex
	changed *sync.Cond
	// inflight is what was taken from source and not yet sent.
	inflight int
	sent     uint64
	ended    bool
}

// NewOutput returns an Output from source, which must be in non-blocking mode,
// to conn. Both are its own from now on.
func NewOutput(source *os.File, conn net.Conn) (*Output, error) {
	raw, err := source.SyscallConn()
	if err != nil {
		return nil, err
	}
	o := &Output{source: source, raw: raw, conn: conn}
	o.changed = sync.NewCond(&o.mu)
	return o, nil
}

// Run carries until source ends, then ends the stream.
func (o *Output) Run() {
	w := stream.NewWriter(o.conn)
	buf := make([]byte, stream.MaxFrame)
	broken := false
	for {
		n, err := o.take(buf)
		if n > 0 && !broken {
			_, werr := w.Write(buf[:n])
			broken = werr != nil
		}
		o.mu.Lock()
		o.inflight = 0
		o.sent = w.Sent()
		// A drain must not wait for bytes that cannot be sent any more.
		o.ended = broken || err != nil
		o.changed.Broadcast()
		o.mu.Unlock()
		if err != nil {
			break
		}
	}
	// The descriptor of a terminal is shared with its input, which ends by it.
	_ = o.source.Close()
	if broken {
		_ = o.conn.Close()
		return
	}
	// The bytes are with the host already: that it is slow to close, or gone,
	// changes nothing for the process.
	_ = w.CloseStream(linger)
}

// take reads once. The read and its bookkeeping are one step for Drain.
func (o *Output) take(buf []byte) (int, error) {
	var n int
	var err error
	rerr := o.raw.Read(func(fd uintptr) bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		// An interrupted read is repeated here: the poller tells of each arrival
		// once, and would not tell again of what is still there.
		for n, err = unix.Read(int(fd), buf); err == unix.EINTR; {
			n, err = unix.Read(int(fd), buf)
		}
		if err == unix.EAGAIN {
			return false
		}
		o.inflight = max(n, 0)
		return true
	})
	switch {
	case rerr != nil:
		return 0, rerr
	case errors.Is(err, unix.EIO):
		// A terminal that no process has open any more.
		return 0, io.EOF
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// Drain returns once everything that the process had written when Drain was
// called is with the host, or ctx is done. It returns the number of bytes that
// the host gets up to there, all told. What a descendant writes later does not
// delay it.
func (o *Output) Drain(ctx context.Context) uint64 {
	stop := context.AfterFunc(ctx, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.changed.Broadcast()
	})
	defer stop()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return o.sent
	}
	target := o.sent + uint64(o.inflight) + o.pendingLocked()
	for o.sent < target && !o.ended && ctx.Err() == nil {
		o.changed.Wait()
	}
	if o.ended {
		return min(o.sent, target)
	}
	return target
}

// pendingLocked returns the number of bytes that wait to be read.
func (o *Output) pendingLocked() uint64 {
	n := 0
	_ = o.raw.Control(func(fd uintptr) {
		// A terminal hands its output over in the background; polling it makes
		// it do so now.
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		_, _ = unix.Poll(fds, 0)
		if avail, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ); err == nil {
			n = avail
		}
	})
	return uint64(max(n, 0))
}

// Close ends the output at once, whatever is still to be carried.
func (o *Output) Close() {
	_ = o.source.Close()
	_ = o.conn.Close()
}
