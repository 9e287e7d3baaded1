package hypervisor

import (
	"os"

	"github.com/nanoclaw/nanoclaw/internal/printable"
)

// How much of a console is of use, in bytes: to a person who typed a command, and
// in a log, where a panic shall have its registers and its stack.
const (
	ConsoleShown  = 2 << 10
	ConsoleLogged = 16 << 10
)

// ConsoleTail returns the end of a guest's console, at most limit bytes of
// printable text, or "" where there is none.
func ConsoleTail(path string, limit int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	buf := make([]byte, min(limit, info.Size()))
	n, err := f.ReadAt(buf, info.Size()-int64(len(buf)))
	if err != nil && n == 0 {
		return ""
	}
	return printable.Text(string(buf[:n]))
}
