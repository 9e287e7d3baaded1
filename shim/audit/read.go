package audit

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// Each calls f with every record in dir, oldest first, until f returns an error.
// Lines that are no records are passed over: to judge them is Verify's.
func Each(dir string, f func(*Record) error) error {
	s, err := takeSnapshot(dir)
	if err != nil {
		return err
	}
	defer s.close()
	for _, file := range s.files {
		if err := file.each(f); err != nil {
			return err
		}
	}
	return nil
}

// Violations counts, by container, the records of what containers were not
// allowed to do. Files that were finished before since are not read.
func Violations(dir string, since time.Time) (map[string]int, error) {
	count := map[string]int{}
	s, err := takeSnapshot(dir)
	if err != nil {
		return nil, err
	}
	defer s.close()
	for _, file := range s.files {
		info, err := file.Stat()
		if err != nil {
			return nil, fmt.Errorf("examine %s: %w", file.Name(), err)
		}
		if info.ModTime().Before(since) {
			continue
		}
		if err := file.each(func(r *Record) error {
			if r.Violation() {
				count[r.Container]++
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return count, nil
}

func (f *snapshotFile) each(use func(*Record) error) error {
	for l := newLines(f.reader()); ; {
		line, err := l.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", f.Name(), err)
		}
		if !line.complete {
			return nil
		}
		r, err := decode(line.data)
		if err != nil {
			continue
		}
		if err := use(&r); err != nil {
			return err
		}
	}
}
