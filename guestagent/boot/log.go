package boot

import (
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

const (
	// maxLine bounds a line of the log. A stack is longer than any other.
	maxLine = 16 << 10
	// maxLines bounds what waits for a console that is slow.
	maxLines = 256
	// levelOption is the word of the kernel's command line that sets the level.
	levelOption = "nanoclaw.log="
)

// PlainLog makes the log lines of plain text from the agent's first word on. The
// console is a terminal, for which they would be coloured, and the host shows
// them in its errors.
func PlainLog() { log.L.Logger.SetFormatter(lineFormatter{}) }

// Log sends what the agent logs to the console, and sets the level that the
// kernel's command line asks for.
func Log() {
	logger := log.L.Logger
	logger.SetOutput(console)
	go console.run(os.Stderr)
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return
	}
	if level, err := logrus.ParseLevel(wantedLevel(string(cmdline))); err == nil {
		logger.SetLevel(level)
	}
}

func wantedLevel(cmdline string) string {
	for _, word := range strings.Fields(cmdline) {
		if level, ok := strings.CutPrefix(word, levelOption); ok {
			return level
		}
	}
	return "info"
}

// lineFormatter writes lines as short as the kernel's own.
type lineFormatter struct{}

// Format implements logrus.Formatter.
func (lineFormatter) Format(e *logrus.Entry) ([]byte, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "agent: %s: %s", e.Level, e.Message)
	keys := make([]string, 0, len(e.Data))
	for k := range e.Data {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		fmt.Fprintf(&b, " %s=%v", k, e.Data[k])
	}
	line := b.String()
	if len(line) > maxLine {
		line = line[:maxLine] + "…"
	}
	return []byte(line + "\n"), nil
}

// console is where the log of this process goes.
var console = newConsoleWriter()

// consoleWriter writes in the background and drops lines rather than make the
// agent wait for a host that does not read the console.
type consoleWriter struct {
	lines   chan []byte
	dropped atomic.Uint64
	// written is told when all lines are.
	written chan struct{}
}

func newConsoleWriter() *consoleWriter {
	return &consoleWriter{lines: make(chan []byte, maxLines), written: make(chan struct{}, 1)}
}

func (w *consoleWriter) run(to io.Writer) {
	for line := range w.lines {
		if n := w.dropped.Swap(0); n > 0 {
			_, _ = fmt.Fprintf(to, "agent: %d lines left out\n", n)
		}
		// There is nowhere to tell of an error.
		_, _ = to.Write(line)
		if len(w.lines) == 0 {
			select {
			case w.written <- struct{}{}:
			default:
			}
		}
	}
}

// Write implements io.Writer.
func (w *consoleWriter) Write(p []byte) (int, error) {
	select {
	case <-w.written:
	default:
	}
	select {
	case w.lines <- append([]byte(nil), p...):
	default:
		w.dropped.Add(1)
	}
	return len(p), nil
}

// flush waits until what was logged before it is written, at most for d.
func (w *consoleWriter) flush(d time.Duration) {
	select {
	case <-w.written:
	case <-time.After(d):
	}
}
