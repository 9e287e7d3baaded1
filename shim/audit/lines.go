package audit

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
)

// rawLine is a line of a file as it is there.
type rawLine struct {
	// offset and length are in bytes, without the newline.
	offset, length int64
	// data is valid until the next line is read; nil: the line is longer than
	// maxLine, and sum is its SHA-256.
	data []byte
	sum  string
	// complete is whether a newline ends it.
	complete bool
}

// digest is the SHA-256 of the line.
func (l rawLine) digest() string {
	if l.data == nil {
		return l.sum
	}
	sum := sha256.Sum256(l.data)
	return hex.EncodeToString(sum[:])
}

// lines reads a file line by line, in bounded memory whatever is in it.
type lines struct {
	r      *bufio.Reader
	offset int64
}

func newLines(r io.Reader) *lines {
	return &lines{r: bufio.NewReaderSize(r, maxLine+1)}
}

// next returns the next line, or io.EOF after the last.
func (l *lines) next() (rawLine, error) {
	line := rawLine{offset: l.offset}
	data, err := l.r.ReadSlice('\n')
	l.offset += int64(len(data))
	switch {
	case err == nil:
		line.data, line.complete = data[:len(data)-1], true
	case errors.Is(err, io.EOF):
		if len(data) == 0 {
			return line, io.EOF
		}
		line.data = data
	case errors.Is(err, bufio.ErrBufferFull):
		return l.long(line, data)
	default:
		return line, err
	}
	line.length = int64(len(line.data))
	return line, nil
}

// long reads on where a line is longer than any record.
func (l *lines) long(line rawLine, data []byte) (rawLine, error) {
	h := sha256.New()
	for {
		line.length += int64(len(data))
		h.Write(data)
		var err error
		data, err = l.r.ReadSlice('\n')
		l.offset += int64(len(data))
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return line, err
		}
		if err == nil {
			line.complete = true
			data = data[:len(data)-1]
		}
		line.length += int64(len(data))
		h.Write(data)
		line.sum = hex.EncodeToString(h.Sum(nil))
		return line, nil
	}
}

// readAt reads what there is at an offset; the end of the file is no error.
func readAt(r io.ReaderAt, buf []byte, offset int64) (int, error) {
	n, err := r.ReadAt(buf, offset)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}
