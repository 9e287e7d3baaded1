package hypervisor

import (
	"os"

	"github.com/nanoclaw/nanoclaw/internal/printable"
)

// consoleTail is how much of a console is shown to a person, in bytes.
const consoleTail = 2 << 10

// ConsoleTail returns the end of a guest's console, at most 2 KiB of printable
// text, or "" where there is none.
func ConsoleTail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	buf := make([]byte, min(consoleTail, info.Size()))
	n, err := f.ReadAt(buf, info.Size()-int64(len(buf)))
	if err != nil && n == 0 {
		return ""
	}
	return printable.Text(string(buf[:n]))
}
