package dnsrelay

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/nanoclaw/nanoclaw/api/stream"
)

// The fixed part of a message (RFC 1035 §4.1.1).
const (
	headerLen = 12
	// In the third byte.
	flagResponse = 0x80
	opcodeMask   = 0x78
	flagRecurse  = 0x01
	// In the fourth.
	flagRecursion = 0x80
	servfail      = 2
)

var errNotQuestion = errors.New("not a DNS question")

func isQuestion(m []byte) bool {
	return len(m) >= headerLen && m[2]&flagResponse == 0
}

// answers reports whether a is an answer to the question of that id.
func answers(a, question []byte) bool {
	return len(a) >= headerLen && a[2]&flagResponse != 0 && a[0] == question[0] && a[1] == question[1]
}

// failure returns the answer that says that the server failed. It repeats what
// was asked, or programs would not take it for theirs.
func failure(question []byte) []byte {
	a := make([]byte, headerLen, headerLen+64)
	copy(a, question[:2])
	a[2] = flagResponse | question[2]&(opcodeMask|flagRecurse)
	a[3] = flagRecursion | servfail
	if asked := askedIn(question); asked != nil {
		a[5] = 1
		a = append(a, asked...)
	}
	return a
}

// askedIn returns the question section of a message that asks one thing: a
// name, a type and a class. It returns nil for any other.
func askedIn(m []byte) []byte {
	if binary.BigEndian.Uint16(m[4:]) != 1 {
		return nil
	}
	end := headerLen
	for {
		if end >= len(m) {
			return nil
		}
		n := int(m[end])
		end++
		if n == 0 {
			break
		}
		// Longer would be a pointer, of which there is nothing to point to.
		if n > 63 {
			return nil
		}
		end += n
		if end-headerLen > 255 {
			return nil
		}
	}
	end += 4
	if end > len(m) {
		return nil
	}
	return m[headerLen:end]
}

// readTCP reads one question with its length before it.
func readTCP(r io.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n < headerLen || n > stream.MaxDNSMessage {
		return nil, errNotQuestion
	}
	m := make([]byte, n)
	if _, err := io.ReadFull(r, m); err != nil {
		return nil, err
	}
	if !isQuestion(m) {
		return nil, errNotQuestion
	}
	return m, nil
}
