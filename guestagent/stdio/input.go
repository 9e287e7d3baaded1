package stdio

import (
	"io"
	"net"
	"os"

	"github.com/nanoclaw/nanoclaw/api/stream"
)

// Input carries the host's stdin stream to a pipe or terminal. It holds at
// most one frame. A process that has closed its stdin loses the rest, as it
// would with any pipe.
type Input struct {
	conn net.Conn
	sink *os.File
	// terminal: sink is shared with the output, which owns it.
	terminal bool
}

// NewInput returns an Input from conn to sink. conn is its own from now on, and
// so is sink unless it is a terminal.
func NewInput(conn net.Conn, sink *os.File, terminal bool) *Input {
	return &Input{conn: conn, sink: sink, terminal: terminal}
}

// Run carries until the stream ends, then closes the process's stdin.
func (i *Input) Run() {
	r := stream.NewReader(i.conn)
	if _, err := io.CopyBuffer(writerOnly{i.sink}, r, make([]byte, stream.MaxFrame)); err != nil {
		i.closeSink()
		// The process is not reading any more. The host goes on sending until
		// it has sent all: take it, or the host would be stuck.
		_, _ = io.Copy(io.Discard, r)
	}
	i.closeSink()
	_ = i.conn.Close()
}

// Close ends the input at once.
func (i *Input) Close() {
	_ = i.conn.Close()
	i.closeSink()
}

func (i *Input) closeSink() {
	if !i.terminal {
		_ = i.sink.Close()
	}
}

// writerOnly hides ReadFrom, with which io.CopyBuffer would not use its buffer.
type writerOnly struct{ io.Writer }
