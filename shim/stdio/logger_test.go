package stdio

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nanoclaw/nanoclaw/api/stream"
)

// program is a logging program of a few lines, and where it writes.
func program(t *testing.T, body string) (url, dir string) {
	t.Helper()
	dir = t.TempDir()
	file := filepath.Join(dir, "logger")
	if err := os.WriteFile(file, []byte("#!/bin/sh\nPATH=/usr/bin:/bin\ncd \"$2\" || exit 1\n"+body), 0o700); err != nil {
		t.Fatal(err)
	}
	return "binary://" + file + "?dir=" + dir, dir
}

// eventually waits for a file's content.
func eventually(t *testing.T, file, want string) {
	t.Helper()
	var got []byte
	for limit := time.Now().Add(10 * time.Second); time.Now().Before(limit); time.Sleep(10 * time.Millisecond) {
		var err error
		if got, err = os.ReadFile(file); err == nil && string(got) == want {
			return
		}
	}
	t.Fatalf("%s holds %q, want %q", file, got, want)
}

func TestOutputToALoggingProgram(t *testing.T) {
	// A script's own descriptors stay open, so that it must close 5 itself, in
	// all of its children too.
	url, dir := program(t, `
echo "$CONTAINER_NAMESPACE $CONTAINER_ID" >who
cat <&3 >out 5>&- & cat <&4 >err 5>&- &
exec 5>&-
wait; echo ended >end`)
	g := &guest{}
	s := open(t, g, Paths{Stdout: url, Stderr: url, Namespace: "moby", ID: "c0ffee"})
	for kind, text := range map[stream.Kind]string{stream.Stdout: "to out", stream.Stderr: "to err"} {
		w := stream.NewWriter(g.end(t, kind))
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		go func() { _ = w.CloseStream(linger) }()
	}
	if err := s.Drain(t.Context(), 6, 6); err != nil {
		t.Fatal(err)
	}
	eventually(t, dir+"/who", "moby c0ffee\n")
	eventually(t, dir+"/end", "ended\n")
	eventually(t, dir+"/out", "to out")
	eventually(t, dir+"/err", "to err")
}

// A process without one of the streams: the program sees that stream's end.
func TestLoggingProgramOfATerminal(t *testing.T) {
	url, dir := program(t, "exec 5>&-\ncat <&4 >err; echo no stderr >end; cat <&3 >out")
	g := &guest{}
	s := open(t, g, Paths{Stdout: url, Stderr: url, Terminal: true})
	eventually(t, dir+"/end", "no stderr\n")
	w := stream.NewWriter(g.end(t, stream.Stdout))
	if _, err := w.Write([]byte("text")); err != nil {
		t.Fatal(err)
	}
	go func() { _ = w.CloseStream(linger) }()
	if err := s.Drain(t.Context(), 4, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, dir+"/out", "text")
}

func TestLoggingProgramThatFails(t *testing.T) {
	g := &guest{}
	file := filepath.Join(t.TempDir(), "none")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), g, Paths{Stdout: "binary://" + file}, newIDs())
	if err == nil || !strings.Contains(err.Error(), "start the logging program") {
		t.Errorf("a file that is no program: %v", err)
	}
	// One that ends at once loses the output, and stops nobody.
	url, _ := program(t, "exit 3")
	s := open(t, g, Paths{Stdout: url})
	w := stream.NewWriter(g.end(t, stream.Stdout))
	for range 100 {
		if _, err := w.Write([]byte("lost")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Drain(t.Context(), 400, 0); err != nil {
		t.Error(err)
	}
}
