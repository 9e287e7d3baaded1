package task

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/internal/printable"
)

// Processes tells an operator which processes a container has. It is a call of
// the agent's protocol, answered on the shim's own socket, which is root's. No
// part of the engine makes it: of all that the engine asks, Pids comes nearest,
// and is about the host's processes.
func (s *Service) Processes(ctx context.Context, r *agent.ProcessesRequest) (*agent.ProcessesResponse, error) {
	c, _, err := s.live(r.GetContainer(), "")
	if err != nil {
		return nil, err
	}
	if c.init.current() != running {
		return nil, fmt.Errorf("container %s is not running: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	said, err := c.sandbox.Agent().RPC().Processes(ctx, &agent.ProcessesRequest{Container: c.id})
	if err != nil {
		return nil, err
	}
	return bounded(said), nil
}

// bounded is what a guest says of processes, made fit to be passed on: it may
// have been taken over, and whoever asks has a terminal.
func bounded(said *agent.ProcessesResponse) *agent.ProcessesResponse {
	list := said.GetProcesses()
	out := &agent.ProcessesResponse{More: said.GetMore()}
	if n := len(list); n > agent.MaxProcesses {
		list = list[:agent.MaxProcesses]
		out.More += uint32(n - agent.MaxProcesses)
	}
	for _, p := range list {
		out.Processes = append(out.Processes, &agent.Process{
			Pid: p.GetPid(), Ppid: p.GetPpid(), Uid: p.GetUid(), CpuMs: p.GetCpuMs(),
			Exec: oneLine(p.GetExec(), agent.MaxContainerID), Command: oneLine(p.GetCommand(), agent.MaxCommand),
		})
	}
	return out
}

// oneLine is a text that stays in its column.
func oneLine(text string, most int) string {
	if len(text) > most {
		text = text[:most]
	}
	// A character that was cut is none any more, and is left out.
	return strings.Join(strings.Fields(printable.Text(strings.ToValidUTF8(text, ""))), " ")
}
