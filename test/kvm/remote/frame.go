package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// kind says what a frame carries.
type kind byte

const (
	// request is the client's first frame: a command, in JSON.
	request kind = iota + 1
	// stdin is input of the command; empty, it is the input's end.
	stdin
	// stdout and stderr are the command's output.
	stdout
	stderr
	// exit is the server's last frame: the exit status, one byte.
	exit
	// failure is the server's last frame where the command did not start.
	failure
)

// maxFrame bounds a frame's payload, in bytes.
const maxFrame = 1 << 20

// frames writes frames to a connection. It is safe for concurrent use.
type frames struct {
	mu sync.Mutex
	w  io.Writer
}

// send writes one frame.
func (f *frames) send(k kind, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	head := binary.BigEndian.AppendUint32([]byte{byte(k)}, uint32(len(payload)))
	_, err := f.w.Write(append(head, payload...))
	return err
}

// stream is an io.Writer that sends what it is given as frames of one kind.
type stream struct {
	frames *frames
	kind   kind
}

// Write is part of io.Writer.
func (s stream) Write(p []byte) (int, error) {
	for sent := 0; sent < len(p); {
		n := min(len(p)-sent, maxFrame)
		if err := s.frames.send(s.kind, p[sent:sent+n]); err != nil {
			return sent, err
		}
		sent += n
	}
	return len(p), nil
}

// receive reads one frame.
func receive(r io.Reader) (kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes", n)
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, err
	}
	return kind(head[0]), payload, nil
}
