package process

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
)

func TestTailKeepsTheEnd(t *testing.T) {
	tl := tail{max: 8}
	for _, s := range []string{"abc", "defgh", "ij", strings.Repeat("x", 20) + "\xffend\n"} {
		if n, err := tl.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatal(n, err)
		}
		if len(tl.buf) > 8 {
			t.Fatalf("%d bytes kept", len(tl.buf))
		}
	}
	if got := tl.String(); got != "xxx?end" {
		t.Fatalf("got %q", got)
	}
}

func TestFailureHasTheLastWords(t *testing.T) {
	for script, want := range map[string]string{
		"echo no room >&2; exit 3": "sh: exit status 3: no room",
		"exit 0":                   "sh ended unasked",
	} {
		p, err := Start((*exec.Cmd).Start, "sh", exec.Command("/bin/sh", "-c", script))
		if err != nil {
			t.Fatal(err)
		}
		<-p.Done()
		if got := p.Failure().Error(); got != want || !p.Ended() {
			t.Errorf("%q: got %q, want %q", script, got, want)
		}
	}
}

func TestWordsAreBounded(t *testing.T) {
	p, err := Start((*exec.Cmd).Start, "sh", exec.Command("/bin/sh", "-c", "seq 100000 >&2"))
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if got := p.Words(); len(got) > MaxWords || !strings.HasSuffix(got, "\n100000") {
		t.Errorf("%d bytes, ending in %q", len(got), got[max(0, len(got)-20):])
	}
}

func TestKilled(t *testing.T) {
	p, err := Start((*exec.Cmd).Start, "sleep", exec.Command("sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	if p.Ended() {
		t.Error("ended before it was killed")
	}
	<-p.Killed()
	p.Kill()
	if got := p.Failure().Error(); !strings.Contains(got, "killed") {
		t.Errorf("got %q", got)
	}
}

func TestAStarterThatFails(t *testing.T) {
	cause := errors.New("no cgroup")
	if _, err := Start(func(*exec.Cmd) error { return cause }, "x", exec.Command("x")); !errors.Is(err, cause) {
		t.Fatalf("got %v", err)
	}
}
