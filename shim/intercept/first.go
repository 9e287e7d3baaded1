package intercept

import (
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// firstTime is how long a guest may take to say its first byte.
const firstTime = 10 * time.Second

// language is what a connection begins in.
type language int

const (
	// speaksOther is anything else, or nothing for some time.
	speaksOther language = iota
	speaksTLS
	speaksHTTP
)

// recordHandshake is the first byte of TLS (RFC 8446, section 5.1).
const recordHandshake = 22

// begin reads the first byte of a connection and says what it begins. More is
// not looked at here: what is TLS is read by the one that answers it, so that
// there are no two opinions of it.
func begin(c net.Conn) (language, []byte, error) {
	first := make([]byte, 1)
	if err := c.SetReadDeadline(time.Now().Add(firstTime)); err != nil {
		return speaksOther, nil, err
	}
	if _, err := io.ReadFull(c, first); errors.Is(err, os.ErrDeadlineExceeded) {
		first = nil
	} else if err != nil {
		return speaksOther, nil, err
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return speaksOther, nil, err
	}
	switch {
	case len(first) == 0:
		return speaksOther, nil, nil
	case first[0] == recordHandshake:
		return speaksTLS, first, nil
	case first[0] >= 'A' && first[0] <= 'Z':
		return speaksHTTP, first, nil
	}
	return speaksOther, first, nil
}

// replayed is a connection of which the first bytes have been read.
type replayed struct {
	net.Conn
	first []byte
}

func (r *replayed) Read(p []byte) (int, error) {
	if len(r.first) > 0 {
		n := copy(p, r.first)
		r.first = r.first[n:]
		return n, nil
	}
	return r.Conn.Read(p)
}

// reset ends a connection so that the other side sees an error and not an end.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}
