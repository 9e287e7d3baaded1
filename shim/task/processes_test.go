package task

import (
	"context"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
)

func TestBoundedProcesses(t *testing.T) {
	many := &agent.ProcessesResponse{More: 2}
	for range agent.MaxProcesses + 3 {
		many.Processes = append(many.Processes, &agent.Process{Command: "x"})
	}
	many.Processes[0] = &agent.Process{Pid: 1, Ppid: 2, Uid: 3, CpuMs: 4, Exec: "e", Command: "a\x1b[2Jb\nc\td\u202e" + strings.Repeat("ä", 500)}
	out := bounded(many)
	if len(out.GetProcesses()) != agent.MaxProcesses || out.GetMore() != 5 {
		t.Errorf("%d and %d more", len(out.GetProcesses()), out.GetMore())
	}
	first := out.GetProcesses()[0]
	if !strings.HasPrefix(first.GetCommand(), "a[2Jb c d") || len(first.GetCommand()) > agent.MaxCommand || !utf8.ValidString(first.GetCommand()) {
		t.Errorf("the command is %q", first.GetCommand())
	}
	if first.GetPid() != 1 || first.GetPpid() != 2 || first.GetUid() != 3 || first.GetCpuMs() != 4 || first.GetExec() != "e" {
		t.Errorf("the rest is %v", first)
	}
}

func FuzzBoundedProcesses(f *testing.F) {
	f.Add("sleep 1")
	f.Add("\x1b]0;x\x07\u009b\xff\r\n")
	f.Fuzz(func(t *testing.T, command string) {
		out := bounded(&agent.ProcessesResponse{Processes: []*agent.Process{{Command: command, Exec: command}}})
		for _, text := range []string{out.GetProcesses()[0].GetCommand(), out.GetProcesses()[0].GetExec()} {
			if len(text) > agent.MaxCommand || !utf8.ValidString(text) || strings.ContainsAny(text, "\x1b\x07\r\n\x00\u009b") {
				t.Fatalf("%q gives %q", command, text)
			}
		}
	})
}

func TestProcesses(t *testing.T) {
	h := newHarness(t)
	if _, err := h.Processes(t.Context(), &agent.ProcessesRequest{Container: id}); !errdefs.IsNotFound(err) {
		t.Errorf("of no container: %v", err)
	}
	h.create()
	if _, err := h.Processes(t.Context(), &agent.ProcessesRequest{Container: id}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("of one that was not started: %v", err)
	}
	h.start("")
	if _, err := h.Processes(t.Context(), &agent.ProcessesRequest{Container: id}); err != nil {
		t.Error(err)
	}
	h.agent.on("Processes", fails(errors.New("no")))
	if _, err := h.Processes(context.Background(), &agent.ProcessesRequest{Container: id}); err == nil {
		t.Error("the guest's error is lost")
	}
}
