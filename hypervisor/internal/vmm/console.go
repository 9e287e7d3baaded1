// Package vmm is what the drivers of all hypervisors do alike: checking a VM's
// description, and keeping a guest's console within its bound.
package vmm

import (
	"fmt"
	"io"
	"os"

	"github.com/nanoclaw/nanoclaw/hypervisor"
)

// Console is a file of bounded size that takes a guest's console. The first
// half of the bound keeps the boot, the second the latest output: when the file
// is full, the second half begins anew.
type Console struct {
	file  *os.File
	limit int64
	size  int64
}

const dropped = "\n[output dropped here]\n"

// OpenConsole opens the file, which may hold the console of an earlier VM.
// Without a path the output is discarded.
func OpenConsole(path string) (*Console, error) {
	if path == "" {
		path = os.DevNull
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the console's file: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open the console's file: %w", err)
	}
	return &Console{file: f, limit: hypervisor.ConsoleLimit, size: st.Size()}, nil
}

// Copy copies until r ends. It goes on reading whatever happens to the file,
// because a guest whose console is not read stops.
func (c *Console) Copy(r io.Reader) {
	buf := make([]byte, 16<<10)
	for {
		n, err := r.Read(buf)
		c.write(buf[:n])
		if err != nil {
			return
		}
	}
}

// Close closes the file.
func (c *Console) Close() error { return c.file.Close() }

// write appends p, which is shorter than half of the limit. A full disk loses
// output, and nothing else.
func (c *Console) write(p []byte) {
	if c.size+int64(len(p)) > c.limit {
		if err := c.file.Truncate(c.limit / 2); err != nil {
			return
		}
		n, _ := io.WriteString(c.file, dropped)
		c.size = c.limit/2 + int64(n)
	}
	n, _ := c.file.Write(p)
	c.size += int64(n)
}
