package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// What a line of the log is about.
const (
	kindStart     = "start"     // a run begins or goes on
	kindLifecycle = "lifecycle" // one container came and went
	kindKill      = "kill"      // a part was killed
	kindShim      = "shim"      // the size of the shim that is there all the time
	kindRemains   = "remains"   // everything was compared with the beginning
)

// entry is a line of the log.
type entry struct {
	Kind string    `json:"kind"`
	Time time.Time `json:"time"`
	// N counts lifecycles and kills, from 1.
	N int `json:"n,omitempty"`
	// Seed is a run's.
	Seed uint64 `json:"seed,omitempty"`
	// Victim is what was killed.
	Victim  string  `json:"victim,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
	// RSS is a shim's memory in KiB, Files how many it has open, Uptime for how
	// many seconds it has run, Execs how often its container was entered.
	RSS    int     `json:"rssKiB,omitempty"`
	Files  int     `json:"files,omitempty"`
	Uptime float64 `json:"uptime,omitempty"`
	Execs  int     `json:"execs,omitempty"`
	// Fault says what was not as it should be, Left what was left.
	Fault string   `json:"fault,omitempty"`
	Left  []string `json:"left,omitempty"`
}

// journal is the log of a run. It is safe for concurrent use.
type journal struct {
	mu      sync.Mutex
	file    *os.File
	entries []entry
}

// openJournal starts a log, or goes on with one, from which p then has the seed.
func openJournal(name string, p *plan, resume bool) (*journal, error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, err
	}
	j := &journal{}
	mode := os.O_CREATE | os.O_RDWR | os.O_TRUNC
	if resume {
		mode = os.O_RDWR
	}
	var err error
	if j.file, err = os.OpenFile(name, mode, 0o644); err != nil {
		if resume && errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is no run to go on with: %w", err)
		}
		return nil, err
	}
	if resume {
		if err := j.read(); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", name, err), j.file.Close())
		}
		p.Seed = j.entries[0].Seed
	}
	return j, j.add(entry{Kind: kindStart, Seed: p.Seed})
}

// read reads what is there. A last line that was not written whole is cut off.
func (j *journal) read() error {
	data, err := io.ReadAll(j.file)
	if err != nil {
		return err
	}
	whole := data[:bytes.LastIndexByte(data, '\n')+1]
	for n, line := range bytes.Split(bytes.TrimSuffix(whole, []byte("\n")), []byte("\n")) {
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("line %d: %w", n+1, err)
		}
		j.entries = append(j.entries, e)
	}
	if j.entries[0].Kind != kindStart {
		return errors.New("it is not the log of a run")
	}
	if err := j.file.Truncate(int64(len(whole))); err != nil {
		return err
	}
	_, err = j.file.Seek(0, io.SeekEnd)
	return err
}

// add writes a line.
func (j *journal) add(e entry) error {
	e.Time = time.Now().UTC()
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries = append(j.entries, e)
	_, err = j.file.Write(append(line, '\n'))
	return err
}

// count is how many of a kind there are.
func (j *journal) count(kind string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := 0
	for _, e := range j.entries {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

func (j *journal) Close() error { return j.file.Close() }
