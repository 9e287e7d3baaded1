package stdio

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/nanoclaw/nanoclaw/api/stream"
	"github.com/nanoclaw/nanoclaw/api/stream/streamtest"
	"golang.org/x/sys/unix"
)

func TestNoteIsAmongTheOutput(t *testing.T) {
	o, w, host := output(t)
	p := &Process{stderr: o}
	_, err := w.WriteString("before\n")
	must(t, err)
	p.Note("told by the agent")
	_, err = w.WriteString("after\n")
	must(t, err)
	// It counts as output, or the shim would miss the last bytes.
	go func() { o.Drain(t.Context()) }()
	must(t, w.Close())
	got, err := io.ReadAll(stream.NewReader(host))
	if err != nil || string(got) != "before\ntold by the agent\nafter\n" {
		t.Errorf("%q, %v", got, err)
	}
	must(t, host.Close())
}

func TestNoteWaitsForNobody(t *testing.T) {
	r, w := pipe(t)
	guest, host := streamtest.Pipe()
	t.Cleanup(func() { _ = host.Close() })
	// Nothing reads, and the pipe is full.
	o, err := NewOutput(r, guest)
	must(t, err)
	must(t, unix.SetNonblock(int(w.Fd()), true))
	for err == nil {
		_, err = unix.Write(int(w.Fd()), make([]byte, 4096))
	}
	p := &Process{stderr: o}
	p.Note(strings.Repeat("x", 2*maxNote))
	o.Close()
	p.Note("nobody is there any more")
	(&Process{}).Note("and there never was")
}

func TestNoteGoesToTheTerminal(t *testing.T) {
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	must(t, unix.IoctlSetPointerInt(int(pty.Fd()), unix.TIOCSPTLCK, 0))
	must(t, unix.SetNonblock(int(pty.Fd()), true))
	guest, host := streamtest.Pipe()
	t.Cleanup(func() { _ = host.Close() })
	o, err := NewOutput(pty, guest)
	must(t, err)
	// A terminal that nobody has open reads as ended.
	name, err := unix.IoctlGetInt(int(pty.Fd()), unix.TIOCGPTN)
	must(t, err)
	process, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", name), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	go o.Run()
	t.Cleanup(func() { _ = process.Close(); o.Close() })
	(&Process{terminal: true, stdout: o}).Note("told")
	got := make([]byte, len("told\r\n"))
	if _, err := io.ReadFull(stream.NewReader(host), got); err != nil || string(got) != "told\r\n" {
		t.Errorf("%q, %v", got, err)
	}
}
