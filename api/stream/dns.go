package stream

import (
	"encoding/binary"
	"fmt"
	"io"
)

// A DNS stream carries messages both ways, each in one frame:
// four bytes that pair an answer with its question, one byte that is the
// transport, and the DNS message itself.

// Transport is how the guest's program asked, and so how the host shall ask.
type Transport byte

const (
	// UDP asks once and may be answered with a truncated message.
	UDP Transport = 0
	// TCP asks for the whole answer.
	TCP Transport = 1
)

const (
	// maxDNSFrame bounds a frame of a DNS stream, whose frames are not answered.
	maxDNSFrame = 64 << 10
	dnsPrefix   = 5
	// dnsHeader is the length of the fixed part of any DNS message (RFC 1035 §4.1.1).
	dnsHeader = 12
)

// MaxDNSMessage is the largest DNS message a stream carries, in bytes. It is
// below the 65,535 of DNS over TCP by the frame's own prefix.
const MaxDNSMessage = maxDNSFrame - dnsPrefix

// DNSMessage is a question or its answer.
type DNSMessage struct {
	// Tag pairs an answer with its question. The guest chooses it.
	Tag       uint32
	Transport Transport
	// Message is the DNS message in wire format, without TCP's length prefix.
	Message []byte
}

// WriteDNS sends m in one write, so that messages of different goroutines do
// not mix where w's own writes do not.
func WriteDNS(w io.Writer, m DNSMessage) error {
	if len(m.Message) > MaxDNSMessage {
		return fmt.Errorf("%w: a DNS message of %d bytes is over %d", ErrFrame, len(m.Message), MaxDNSMessage)
	}
	frame := make([]byte, 0, 4+dnsPrefix+len(m.Message))
	frame = binary.BigEndian.AppendUint32(frame, uint32(dnsPrefix+len(m.Message)))
	frame = binary.BigEndian.AppendUint32(frame, m.Tag)
	frame = append(frame, byte(m.Transport))
	frame = append(frame, m.Message...)
	_, err := w.Write(frame)
	return err
}

// ReadDNS reads one message. It returns io.EOF when the stream ended.
func ReadDNS(r io.Reader) (DNSMessage, error) {
	n, err := readLength(r, maxDNSFrame)
	if err != nil {
		return DNSMessage{}, err
	}
	if n == 0 {
		return DNSMessage{}, io.EOF
	}
	if n < dnsPrefix+dnsHeader {
		return DNSMessage{}, fmt.Errorf("%w: %d bytes are too few for a DNS message", ErrFrame, n)
	}
	frame := make([]byte, n)
	if _, err := io.ReadFull(r, frame); err != nil {
		return DNSMessage{}, err
	}
	m := DNSMessage{
		Tag:       binary.BigEndian.Uint32(frame),
		Transport: Transport(frame[4]),
		Message:   frame[dnsPrefix:],
	}
	if m.Transport != UDP && m.Transport != TCP {
		return DNSMessage{}, fmt.Errorf("%w: unknown DNS transport %d", ErrFrame, m.Transport)
	}
	return m, nil
}
