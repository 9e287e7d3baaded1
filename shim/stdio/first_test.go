package stdio

import (
	"io"
	"strings"
	"testing"
	"time"
)

// slow is a client that takes its time; it notes whether the first byte was
// known to be there when it was offered.
type slow struct {
	out   *output
	known bool
}

func (s *slow) Write(p []byte) (int, error) {
	s.known = !s.out.firstByte().IsZero()
	return len(p), nil
}

func TestFirstOutputIsWhenItCame(t *testing.T) {
	out, err := &output{moved: make(chan struct{})}, &output{moved: make(chan struct{})}
	set := &Set{stdout: out, stderr: err}
	if at := set.FirstOutput(); !at.IsZero() {
		t.Errorf("output at %s before there was any", at)
	}
	client := &slow{out: err}
	if e := err.pump(client, strings.NewReader("x")); e != nil {
		t.Fatal(e)
	}
	first := set.FirstOutput()
	if !client.known || first.IsZero() {
		t.Error("the first byte is noted only after the client took it")
	}
	time.Sleep(time.Millisecond)
	if e := out.pump(io.Discard, strings.NewReader("later")); e != nil {
		t.Fatal(e)
	}
	if at := set.FirstOutput(); !at.Equal(first) {
		t.Errorf("the first output moved from %s to %s", first, at)
	}
	if at := (&Set{}).FirstOutput(); !at.IsZero() {
		t.Errorf("a process without streams wrote at %s", at)
	}
}
