package main

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ask has a server of the test's own run a command.
func ask(t *testing.T, c command, in io.Reader) (code int, out, errs string, err error) {
	t.Helper()
	near, far := net.Pipe()
	served := make(chan error, 1)
	go func() {
		served <- answer(far)
		_ = far.Close()
	}()
	var o, e bytes.Buffer
	code, err = converse(near, c, in, &o, &e)
	_ = near.Close()
	select {
	case err := <-served:
		if err != nil {
			t.Log(err) // of a client that has gone
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the server does not end")
	}
	return code, o.String(), e.String(), err
}

func TestCommands(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<18)
	for name, test := range map[string]struct {
		args      []string
		in        string
		code      int
		out, errs string
	}{
		"status":       {[]string{"sh", "-c", "exit 42"}, "", 42, "", ""},
		"signal":       {[]string{"sh", "-c", "kill -9 $$"}, "", 137, "", ""},
		"both outputs": {[]string{"sh", "-c", "echo a; echo b >&2"}, "", 0, "a\n", "b\n"},
		"input":        {[]string{"cat"}, big, 0, big, ""},
		"unread input": {[]string{"true"}, big, 0, "", ""},
		"arguments":    {[]string{"printf", "%s,", "a b", "", "$c"}, "", 0, "a b,,$c,", ""},
		"folder":       {[]string{"pwd"}, "", 0, "/usr\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs, err := ask(t, command{Folder: "/usr", Args: test.args}, strings.NewReader(test.in))
			if err != nil || code != test.code || out != test.out || errs != test.errs {
				t.Errorf("got %d, %.100q, %.100q, %v", code, out, errs, err)
			}
		})
	}
}

func TestACommandThatIsNotThere(t *testing.T) {
	if code, _, _, err := ask(t, command{Args: []string{"no-such-command"}}, strings.NewReader("")); err == nil || code != failed {
		t.Errorf("got %d, %v", code, err)
	}
}

func TestABackgroundProcessDoesNotHoldTheCommand(t *testing.T) {
	began := time.Now()
	code, out, _, err := ask(t, command{Args: []string{"sh", "-c", "sleep 60 & echo done"}}, strings.NewReader(""))
	if err != nil || code != 0 || out != "done\n" || time.Since(began) > 10*time.Second {
		t.Errorf("got %d, %q, %v after %v", code, out, err, time.Since(began))
	}
}

func TestATerminal(t *testing.T) {
	c := command{Args: []string{"sh", "-c", "stty size; tty -s"}, Terminal: &unix.Winsize{Row: 11, Col: 77}, Term: "xterm"}
	code, out, _, err := ask(t, c, strings.NewReader(""))
	if err != nil || code != 0 || !strings.Contains(out, "11 77") {
		t.Errorf("got %d, %q, %v", code, out, err)
	}
}

func TestACommandEndsWithItsClient(t *testing.T) {
	near, far := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- answer(far) }()
	go func() {
		_, _ = converse(near, command{Args: []string{"sleep", "60"}}, strings.NewReader(""), io.Discard, io.Discard)
	}()
	time.Sleep(200 * time.Millisecond)
	_ = near.Close()
	select {
	case err := <-served:
		t.Log(err)
	case <-time.After(10 * time.Second):
		t.Fatal("the command goes on")
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 2, '{', '}'})
	f.Add([]byte{3, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, payload, err := receive(bytes.NewReader(data)); err == nil && len(payload) > len(data) {
			t.Fatalf("%d bytes of %d", len(payload), len(data))
		}
	})
}
