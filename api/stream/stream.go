// Package stream carries one process's stdin, stdout or stderr, or the guest's
// DNS questions, over one vsock connection that the host opened.
//
// A connection begins with a header naming the stream, sent by the host, and
// then carries frames in the stream's direction: a four-byte big-endian length
// and that many bytes. A frame of length zero is the end of the stream. The
// sender then waits for the receiver to close, so that the end of a stream
// never races its last bytes: half-close is lost by some vsock devices, and a
// full close may discard what is still queued in them.
//
// For each frame that it has consumed the receiver sends one byte back, and a
// sender has at most two frames on their way. That keeps a connection below the
// 64 KiB of credit that vsock devices grant, and every answer renews the
// credit: with vhost-device-vsock 0.3.0, connections that used it all up were
// seen to stand still for ever.
//
// It promises that a reader never allocates more than MaxFrame for a frame,
// whatever the other side sends. It does not authenticate: the agent accepts
// streams from the host's CID only, and ids are random.
package stream

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// MaxFrame is the largest payload of a frame, in bytes.
const MaxFrame = 16 << 10

// window is the number of frames that may be on their way.
const window = 2

// maxHeader bounds the header line: magic, kind, id and newline.
const maxHeader = 128

const magic = "nanoclaw/1"

// Kind says what a stream carries, and so in which direction.
type Kind string

const (
	// Stdin flows from host to guest.
	Stdin Kind = "stdin"
	// Stdout flows from guest to host. A terminal's output is its stdout.
	Stdout Kind = "stdout"
	// Stderr flows from guest to host.
	Stderr Kind = "stderr"
	// DNS flows both ways: questions to the host, answers to the guest. Its id
	// is the sandbox's name.
	DNS Kind = "dns"
)

func (k Kind) valid() bool {
	switch k {
	case Stdin, Stdout, Stderr, DNS:
		return true
	}
	return false
}

// Header names a stream.
type Header struct {
	Kind Kind
	ID   string
}

// ErrHeader is wrapped by the errors of ReadHeader for a header that is not one.
var ErrHeader = errors.New("not a stream header")

// ErrFrame is wrapped by the errors of Reader for a frame that is not one.
var ErrFrame = errors.New("not a stream frame")

// WriteHeader sends h.
func WriteHeader(w io.Writer, h Header) error {
	if !h.Kind.valid() || !ValidID(h.ID) {
		return fmt.Errorf("%w: kind %q, id %q", ErrHeader, h.Kind, h.ID)
	}
	_, err := fmt.Fprintf(w, "%s %s %s\n", magic, h.Kind, h.ID)
	return err
}

// ReadHeader reads a header from r, byte by byte so that nothing of the first
// frame is taken.
func ReadHeader(r io.Reader) (Header, error) {
	line := make([]byte, 0, maxHeader)
	var b [1]byte
	for {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return Header{}, fmt.Errorf("read stream header: %w", err)
		}
		if b[0] == '\n' {
			break
		}
		if len(line) == maxHeader {
			return Header{}, fmt.Errorf("%w: longer than %d bytes", ErrHeader, maxHeader)
		}
		line = append(line, b[0])
	}
	fields := strings.Split(string(line), " ")
	if len(fields) != 3 || fields[0] != magic {
		return Header{}, fmt.Errorf("%w: %q", ErrHeader, line)
	}
	h := Header{Kind: Kind(fields[1]), ID: fields[2]}
	if !h.Kind.valid() || !ValidID(h.ID) {
		return Header{}, fmt.Errorf("%w: %q", ErrHeader, line)
	}
	return h, nil
}

// ValidID reports whether id may name a stream: 1 to 64 bytes of [0-9a-f].
func ValidID(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Writer frames what is written to it. It is not safe for concurrent use.
type Writer struct {
	conn net.Conn
	buf  []byte
	sent uint64
	// open is the number of frames that the receiver has not consumed yet.
	open int
}

// NewWriter returns a Writer that sends frames on conn.
func NewWriter(conn net.Conn) *Writer {
	return &Writer{conn: conn}
}

// Write sends p in as many frames as it takes, each in one write of the
// connection.
func (w *Writer) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 {
		if err := w.await(window - 1); err != nil {
			return n, err
		}
		chunk := p[:min(len(p), MaxFrame)]
		w.buf = binary.BigEndian.AppendUint32(w.buf[:0], uint32(len(chunk)))
		w.buf = append(w.buf, chunk...)
		if _, err := w.conn.Write(w.buf); err != nil {
			return n, err
		}
		w.open++
		n += len(chunk)
		w.sent += uint64(len(chunk))
		p = p[len(chunk):]
	}
	return n, nil
}

// await waits until at most most frames are on their way.
func (w *Writer) await(most int) error {
	var answers [window]byte
	for w.open > most {
		n, err := w.conn.Read(answers[:w.open])
		w.open -= n
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Sent returns the number of payload bytes written so far.
func (w *Writer) Sent() uint64 { return w.sent }

// CloseStream sends the end of the stream, waits at most linger for the
// receiver to close, and closes the connection.
func (w *Writer) CloseStream(linger time.Duration) error {
	var end [4]byte
	_, err := w.conn.Write(end[:])
	if err == nil {
		_ = w.conn.SetReadDeadline(time.Now().Add(linger))
		// Whatever ends this ends the stream.
		_, _ = io.Copy(io.Discard, io.LimitReader(w.conn, window+1))
	}
	return errors.Join(err, w.conn.Close())
}

// Reader returns the payload of the frames read from a connection. It is not
// safe for concurrent use.
type Reader struct {
	br     *bufio.Reader
	answer io.Writer
	left   int
	end    bool
}

// NewReader returns a Reader of the frames that conn carries, which it answers
// on conn. It may read ahead.
func NewReader(conn io.ReadWriter) *Reader {
	return &Reader{br: bufio.NewReaderSize(conn, MaxFrame+4), answer: conn}
}

// Read returns io.EOF at the end of the stream, and io.ErrUnexpectedEOF when
// the connection ends before the stream does.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if r.end {
		return 0, io.EOF
	}
	if r.left == 0 {
		n, err := readLength(r.br, MaxFrame)
		if err != nil {
			return 0, err
		}
		if n == 0 {
			r.end = true
			return 0, io.EOF
		}
		r.left = n
	}
	n, err := r.br.Read(p[:min(len(p), r.left)])
	r.left -= n
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err == nil && r.left == 0 {
		// A sender that is gone is noticed by the next read.
		_, _ = r.answer.Write([]byte{0})
	}
	return n, err
}

func readLength(r io.Reader, most uint32) (int, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > most {
		return 0, fmt.Errorf("%w: length %d is over %d", ErrFrame, n, most)
	}
	return int(n), nil
}
