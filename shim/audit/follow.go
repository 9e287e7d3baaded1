package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// pollInterval is how often Follow looks for more. Reading the size of a file
// costs nothing, and unlike notifications it works on every file system.
const pollInterval = 200 * time.Millisecond

// Follow calls f with the last records in dir, as many as last says, and then
// with each that is written, across rotations, until ctx ends or f returns an
// error. A log that is not there yet is waited for.
func Follow(ctx context.Context, dir string, last int, f func(*Record) error) error {
	w := &follower{dir: dir}
	if err := w.begin(last, f); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		if err := w.more(f); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// follower knows how far it has read.
type follower struct {
	dir string
	// seq is the last record that was read; ino, dev and offset are where.
	seq      uint64
	ino, dev uint64
	offset   int64
}

// begin reads what is there and hands out the end of it.
func (w *follower) begin(last int, f func(*Record) error) error {
	var end []Record
	err := Each(w.dir, func(r *Record) error {
		w.seq = r.Seq
		if end = append(end, *r); len(end) > last {
			end = end[1:]
		}
		return nil
	})
	for i := range end {
		if err := f(&end[i]); err != nil {
			return err
		}
	}
	return err
}

// more hands out what was written since.
func (w *follower) more(f func(*Record) error) error {
	var st unix.Stat_t
	path := filepath.Join(w.dir, FileName)
	if err := unix.Stat(path, &st); err != nil {
		return fmt.Errorf("examine %s: %w", path, plain(err))
	}
	fresh := func(r *Record) error {
		if r.Seq <= w.seq {
			return nil
		}
		w.seq = r.Seq
		return f(r)
	}
	if st.Ino != w.ino || st.Dev != w.dev || st.Size < w.offset {
		// A new file: what else the old one and those between got is read too.
		w.ino, w.dev, w.offset = st.Ino, st.Dev, 0
		newest := uint64(0)
		if err := Each(w.dir, func(r *Record) error { newest = r.Seq; return nil }); err != nil {
			return err
		}
		if newest < w.seq {
			// Not the next file, but another log.
			w.seq = 0
		}
		return Each(w.dir, fresh)
	}
	if st.Size == w.offset {
		return nil
	}
	folder, err := openFolder(w.dir, false)
	if err != nil {
		return err
	}
	defer func() { _ = folder.close() }() // it was read from only
	file, err := folder.open(FileName, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // it was read from only
	for l := newLines(io.NewSectionReader(file, w.offset, st.Size-w.offset)); ; {
		line, err := l.next()
		if errors.Is(err, io.EOF) || err == nil && !line.complete {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		if r, err := decode(line.data); err == nil {
			if err := fresh(&r); err != nil {
				return err
			}
		}
		w.offset += line.length + 1
	}
}
