package qemu

import (
	"fmt"
	"io"
	"os"

	"github.com/nanoclaw/nanoclaw/hypervisor"
)

// console copies the guest's console into a file of bounded size. The first
// half of the bound keeps the boot, the second the latest output: when the file
// is full, the second half begins anew. It goes on reading whatever happens to
// the file, because a guest whose console is not read stops.
type console struct {
	file  *os.File
	limit int64
	size  int64
}

const dropped = "\n[output dropped here]\n"

// openConsole opens the file, which may hold the console of an earlier VM.
// Without a path the output is discarded.
func openConsole(path string) (*console, error) {
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
	return &console{file: f, limit: hypervisor.ConsoleLimit, size: st.Size()}, nil
}

// copy copies until r ends, and closes both.
func (c *console) copy(r io.ReadCloser) {
	defer func() {
		_ = r.Close()
		_ = c.file.Close()
	}()
	buf := make([]byte, 16<<10)
	for {
		n, err := r.Read(buf)
		c.write(buf[:n])
		if err != nil {
			return
		}
	}
}

// write appends p, which is shorter than half of the limit. A full disk loses
// output, and nothing else.
func (c *console) write(p []byte) {
	if c.size+int64(len(p)) > c.limit {
		if err := c.file.Truncate(c.limit / 2); err != nil {
			return
		}
		c.size = c.limit / 2
		n, _ := io.WriteString(c.file, dropped)
		c.size += int64(n)
	}
	n, _ := c.file.Write(p)
	c.size += int64(n)
}
