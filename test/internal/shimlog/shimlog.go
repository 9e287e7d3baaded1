// Package shimlog reads what the shim says of a container in containerd's log:
// the figures for which tests and benchmarks need no other way in.
package shimlog

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// The messages that hold figures. docs/performance.md says what each field is.
const (
	// Started has the phases of a start.
	Started = "container started"
	// Closed has the calls into the guest, and when the first output came.
	Closed = "sandbox closed"
)

// Entry is one line of the log.
type Entry map[string]string

// Number returns a field that is a number.
func (e Entry) Number(field string) (float64, error) {
	n, err := strconv.ParseFloat(e[field], 64)
	if err != nil {
		return 0, fmt.Errorf("the shim's message %q has no number %s, but %q", e["msg"], field, e[field])
	}
	return n, nil
}

// Time returns a field that is a time.
func (e Entry) Time(field string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, e[field])
	if err != nil {
		return t, fmt.Errorf("the shim's message %q has no time %s, but %q", e["msg"], field, e[field])
	}
	return t, nil
}

// Log is what was written to a log since Open.
type Log struct {
	path string
	from int64
}

// Open notes the end of the log at path.
func Open(path string) (*Log, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("containerd's log, in which the shim's messages are: %w", err)
	}
	return &Log{path: path, from: info.Size()}, nil
}

// Wait returns the message of a container. The shim writes its log through
// containerd, so a message may come a little after what it tells of.
func (l *Log) Wait(container, message string, patience time.Duration) (Entry, error) {
	for limit := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		e, err := l.find(container, message)
		if e != nil || err != nil {
			return e, err
		}
		if time.Now().After(limit) {
			return nil, fmt.Errorf("%s does not say %q of container %s", l.path, message, container)
		}
	}
}

func (l *Log) find(container, message string) (Entry, error) {
	f, err := os.Open(l.path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Seek(l.from, io.SeekStart); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	// What follows the last newline is still being written.
	data = data[:bytes.LastIndexByte(data, '\n')+1]
	for line := range strings.Lines(string(data)) {
		if !strings.Contains(line, container) {
			continue
		}
		if e := Parse(line); e["container"] == container && e["msg"] == message {
			return e, nil
		}
	}
	return nil, nil
}

// Parse reads a line of "key=value" and `key="quoted value"`, as logrus writes
// it. What is not of that form is left out.
func Parse(line string) Entry {
	e := Entry{}
	for {
		key, rest, ok := strings.Cut(strings.TrimLeft(line, " \n"), "=")
		if !ok {
			return e
		}
		// A word without "=" before the key is no part of it.
		key = key[strings.LastIndexByte(key, ' ')+1:]
		if quoted, err := strconv.QuotedPrefix(rest); err == nil && strings.HasPrefix(rest, `"`) {
			if e[key], err = strconv.Unquote(quoted); err != nil {
				return e
			}
			line = rest[len(quoted):]
			continue
		}
		end := strings.IndexAny(rest, " \n")
		if end < 0 {
			end = len(rest)
		}
		e[key], line = rest[:end], rest[end:]
	}
}
