package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// entered is how often the constant container is entered each time, so that its
// shim has something to grow by.
const entered = 5

// constant is a container that runs all the time. Its shim is what is watched for
// growth, and it must survive all that is done to others and to containerd.
type constant struct {
	soak  *soak
	id    string
	shim  int
	began time.Time
	execs int
}

func (s *soak) newConstant() (*constant, error) {
	id, err := s.docker("run", "-d", "--runtime", "nanoclaw", "busybox", "sleep", "1000000")
	if err != nil {
		return nil, err
	}
	c := &constant{soak: s, id: id, began: time.Now()}
	if c.shim, err = find(partShim, id); err != nil {
		return nil, errors.Join(err, c.remove())
	}
	return c, nil
}

// note enters the container and writes down how large its shim is.
func (c *constant) note(j *journal) error {
	e := entry{Kind: kindShim}
	timed(&e, func() error {
		for range entered {
			word := fmt.Sprintf("entered %d times", c.execs)
			if err := c.soak.expect(word, "exec", c.id, "echo", word); err != nil {
				return err
			}
			c.execs++
		}
		var err error
		e.RSS, e.Files, err = size(c.shim)
		return err
	})
	e.Execs, e.Uptime = c.execs, time.Since(c.began).Round(time.Second).Seconds()
	c.soak.tell(e)
	return j.add(e)
}

func (c *constant) remove() error { return c.soak.removed(c.id) }

// size is a process's resident memory in KiB, and how many files it has open.
func size(pid int) (rss, files int, err error) {
	dir := filepath.Join("/proc", fmt.Sprint(pid))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			if _, err := fmt.Sscanf(rest, "%d kB", &rss); err != nil {
				return 0, 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
			}
		}
	}
	list, err := os.ReadDir(filepath.Join(dir, "fd"))
	return rss, len(list), err
}
