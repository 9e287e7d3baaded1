package cloudhypervisor

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/nanoclaw/nanoclaw/hypervisor"
)

// console copies the guest's console into a file of bounded size. The first
// half of the bound keeps the boot, the second the latest output: when the file
// is full, the second half begins anew.
type console struct {
	file *os.File
	size int64
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
	return &console{file: f, size: st.Size()}, nil
}

// copy copies until r ends, whatever happens to the file: a guest whose console
// is not read stops.
func (c *console) copy(r io.Reader) {
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
	if c.size+int64(len(p)) > hypervisor.ConsoleLimit {
		if err := c.file.Truncate(hypervisor.ConsoleLimit / 2); err != nil {
			return
		}
		n, _ := io.WriteString(c.file, dropped)
		c.size = hypervisor.ConsoleLimit/2 + int64(n)
	}
	n, _ := c.file.Write(p)
	c.size += int64(n)
}

// maxDetail bounds what is kept of the VMM's standard error.
const maxDetail = 3 << 10

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

// Write is part of io.Writer. It never fails and never keeps more than
// maxDetail bytes.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	if n > maxDetail {
		p = p[n-maxDetail:]
	}
	if over := len(t.buf) + len(p) - maxDetail; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	t.buf = append(t.buf, p...)
	return n, nil
}

// String returns the end as valid, trimmed text.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(strings.ToValidUTF8(string(t.buf), "?"))
}
