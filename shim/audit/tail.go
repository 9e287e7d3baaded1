package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// place is a point of the chain: the number and the hash of a record.
type place struct {
	seq  uint64
	hash string
}

// start is the point before the first record.
var start = place{hash: noHash}

// tail is the end of a file.
type tail struct {
	// last is the last record that is whole; start where there is none.
	last place
	// rest is the number of bytes after it, which are no record; sum is their
	// SHA-256.
	rest int64
	sum  string
	// lines is whether the rest holds a newline: an interrupted writer leaves
	// none.
	lines bool
}

// readTail finds the end of a file of size bytes.
func readTail(r io.ReaderAt, size int64) (tail, error) {
	if size == 0 {
		return tail{last: start}, nil
	}
	// The usual case: the file ends with a whole record.
	buf := make([]byte, min(size, maxLine+2))
	n, err := readAt(r, buf, size-int64(len(buf)))
	if err != nil {
		return tail{}, err
	}
	if whole, ok := bytes.CutSuffix(buf[:n], []byte("\n")); ok {
		if record, err := decode(whole[bytes.LastIndexByte(whole, '\n')+1:]); err == nil {
			return tail{last: place{record.Seq, record.Hash}}, nil
		}
	}
	return searchTail(r, size)
}

// searchTail reads the whole file for its last whole record.
func searchTail(r io.ReaderAt, size int64) (tail, error) {
	t := tail{last: start}
	var end int64
	for l := newLines(io.NewSectionReader(r, 0, size)); ; {
		line, err := l.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return tail{}, err
		}
		if !line.complete {
			continue
		}
		if record, err := decode(line.data); err == nil {
			t.last = place{record.Seq, record.Hash}
			end = l.offset
		}
	}
	t.rest = size - end
	h := sha256.New()
	var newlines newlineFinder
	if _, err := io.Copy(io.MultiWriter(h, &newlines), io.NewSectionReader(r, end, t.rest)); err != nil {
		return tail{}, fmt.Errorf("read the end of the log: %w", err)
	}
	t.sum, t.lines = hex.EncodeToString(h.Sum(nil)), bool(newlines)
	return t, nil
}

// newlineFinder is set once a newline has been written to it.
type newlineFinder bool

func (f *newlineFinder) Write(p []byte) (int, error) {
	if bytes.IndexByte(p, '\n') >= 0 {
		*f = true
	}
	return len(p), nil
}
