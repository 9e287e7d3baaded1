package container

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/api/stream"
	"github.com/nanoclaw/nanoclaw/guestagent/reaper"
	"github.com/nanoclaw/nanoclaw/guestagent/stdio"
)

func TestNotesAreFew(t *testing.T) {
	var n notes
	now := time.Now()
	a, b := &process{}, &process{}
	for _, test := range []struct {
		what note
		at   time.Duration
		want bool
	}{
		{note{a, "deny", "curl"}, 0, true},
		{note{a, "deny", "curl"}, time.Second, false},
		{note{a, "deny", "wget"}, time.Second, true},
		{note{b, "deny", "curl"}, time.Second, true},
		{note{a, "deny", "curl"}, noteEvery + time.Second, true},
	} {
		if got := n.may(test.what, now.Add(test.at)); got != test.want {
			t.Errorf("%v after %v: %v", test.what, test.at, got)
		}
	}
	told := 4
	for i := range 2 * maxNotes {
		if n.may(note{a, "deny", string(rune(i))}, now) {
			told++
		}
	}
	if told != maxNotes {
		t.Errorf("%d lines", told)
	}
}

func TestParentOf(t *testing.T) {
	if got := parentOf(os.Getpid()); got != os.Getppid() {
		t.Errorf("parentOf = %d, want %d", got, os.Getppid())
	}
	if got := parentOf(1 << 30); got != 0 {
		t.Errorf("the parent of no process is %d", got)
	}
}

// lateGate tells of a refusal only when it is asked to settle.
type lateGate struct {
	openGate
	settle func()
}

func (g *lateGate) Settle() { g.settle() }

func lateGates(_ *agent.ExecGate, refused func(Refusal)) (Gate, error) {
	return &lateGate{settle: func() { refused(Refusal{Decision: &agent.Decision{Path: "/bin/ls"}, Line: "told"}) }}, nil
}

func TestRefusalIsToldWhenItsProcessHasEnded(t *testing.T) {
	g := setup(t)
	for name, test := range map[string]struct {
		io     *agent.Stdio
		stream string
		want   string
	}{
		"pipes":    {&agent.Stdio{Stderr: "e2"}, "e2", "last\ntold\n"},
		"terminal": {&agent.Stdio{Stdout: "e3", Terminal: true}, "e3", "last\r\ntold\r\n"},
	} {
		spec := testSpec("sh", "-c", "echo last >&2; exit 3")
		spec.Process.Terminal = test.io.GetTerminal()
		c := g.startedWith(t, &agent.CreateRequest{Spec: marshal(t, spec), Stdio: test.io, Exec: &agent.ExecGate{}})
		if got, err := g.host.read(test.stream); err != nil || got != test.want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		r, err := c.Wait(t.Context(), "")
		if err != nil || r.Status != 3 || int(r.Stdout+r.Stderr) != len(test.want) {
			t.Errorf("%s: Wait = %+v, %v", name, r, err)
		}
	}
}

type oneStream struct{ conn net.Conn }

func (s oneStream) Take(context.Context, stream.Kind, string) (net.Conn, error) { return s.conn, nil }

// fakeProcess has a stderr that is read at the other end.
func fakeProcess(t *testing.T, pid int) (*process, net.Conn) {
	t.Helper()
	guest, host, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	p, err := stdio.Open(t.Context(), oneStream{guest}, &agent.Stdio{Stderr: "a2"}, os.Getuid(), os.Getgid())
	if err != nil {
		t.Fatal(err)
	}
	p.Hold()
	if err := p.Started(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = host.Close()
		p.Close()
	})
	return newProcess(reaper.New().Expect().Claim(pid), p), host
}

func read(t *testing.T, host net.Conn, n int) string {
	t.Helper()
	if err := host.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	if _, err := stream.NewReader(host).Read(b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRefusalOfAnExecThatIsBeingStarted(t *testing.T) {
	const initPID, execPID, ofNobody = 1 << 30, 1<<30 + 1, 1<<30 + 2
	c := newContainer(Config{}, "x")
	init, initErr := fakeProcess(t, initPID)
	exec, execErr := fakeProcess(t, execPID)
	c.init = init
	c.execs["a"], c.execs["b"] = nil, nil
	c.refused(Refusal{Decision: &agent.Decision{Pid: execPID, Rule: "a"}, Line: "of the exec"})
	c.refused(Refusal{Decision: &agent.Decision{Pid: ofNobody, Rule: "b"}, Line: "of another"})
	// What is init's waits for nobody.
	c.refused(Refusal{Decision: &agent.Decision{Pid: ofNobody, Ppid: initPID, Rule: "c"}, Line: "of init"})
	if got := read(t, initErr, 8); got != "of init\n" {
		t.Errorf("init was told %q", got)
	}
	c.settleExec("a", exec)
	if got := read(t, execErr, 12); got != "of the exec\n" {
		t.Errorf("the exec was told %q", got)
	}
	if len(c.early) != 1 {
		t.Errorf("%d wait for the other exec", len(c.early))
	}
	c.settleExec("b", nil)
	if got := read(t, initErr, 11); got != "of another\n" {
		t.Errorf("init was told %q", got)
	}
}
