package boot

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sirupsen/logrus"
)

func TestWantedLevel(t *testing.T) {
	for cmdline, want := range map[string]string{
		"":                                "info",
		"quiet console=hvc0\n":            "info",
		"quiet nanoclaw.log=debug init=/": "debug",
	} {
		if got := wantedLevel(cmdline); got != want {
			t.Errorf("wantedLevel(%q) = %q, want %q", cmdline, got, want)
		}
	}
}

func TestLine(t *testing.T) {
	e := &logrus.Entry{Level: logrus.WarnLevel, Message: "hello", Data: logrus.Fields{"b": 2, "a": "x"}}
	line, err := lineFormatter{}.Format(e)
	if err != nil || string(line) != "agent: warning: hello a=x b=2\n" {
		t.Errorf("%q, %v", line, err)
	}
	e.Message = strings.Repeat("x", 2*maxLine)
	if line, _ := (lineFormatter{}).Format(e); len(line) > maxLine+8 {
		t.Errorf("a line of %d bytes", len(line))
	}
}

// slow is a console that does not read until it is let.
type slow struct {
	let chan struct{}
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *slow) Write(p []byte) (int, error) {
	<-s.let
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func TestConsoleNeverMakesTheAgentWait(t *testing.T) {
	to := &slow{let: make(chan struct{})}
	w := newConsoleWriter()
	go w.run(to)
	for range 2 * maxLines {
		if _, err := w.Write([]byte("line\n")); err != nil {
			t.Fatal(err)
		}
	}
	w.flush(time.Millisecond)
	close(to.let)
	w.flush(10 * time.Second)
	to.mu.Lock()
	defer to.mu.Unlock()
	if !strings.Contains(to.buf.String(), "lines left out") {
		t.Errorf("nothing tells that lines are missing: %q", to.buf.String())
	}
}

func TestCheckTime(t *testing.T) {
	for _, at := range []int64{0, -1, 1 << 62} {
		if err := checkTime(at); !errdefs.IsInvalidArgument(err) {
			t.Errorf("checkTime(%d) = %v", at, err)
		}
	}
	if err := checkTime(time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC).UnixNano()); err != nil {
		t.Error(err)
	}
}

func TestCheckEntropy(t *testing.T) {
	for _, n := range []int{0, minEntropy - 1, maxEntropy + 1} {
		if err := checkEntropy(make([]byte, n)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("checkEntropy of %d bytes = %v", n, err)
		}
	}
	if err := checkEntropy(make([]byte, minEntropy)); err != nil {
		t.Error(err)
	}
}

func TestBooted(t *testing.T) {
	var m Machine
	if began, called := m.Booted(); began <= 0 || called != 0 {
		t.Errorf("before the call: %s, %s", began, called)
	}
	m.Called()
	if _, called := m.Booted(); called <= 0 {
		t.Errorf("after the call: %s", called)
	}
}
