package task

import (
	"context"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
)

// serviceNames are both versions of the task API. Their messages are the same
// on the wire, so one set of methods serves them: containerd 1.7 knows only v2.
var serviceNames = []string{"containerd.task.v2.Task", "containerd.task.v3.Task"}

// RegisterTTRPC implements shim.TTRPCService.
func (s *Service) RegisterTTRPC(server *ttrpc.Server) error {
	for _, name := range serviceNames {
		server.RegisterService(name, &ttrpc.ServiceDesc{Methods: methods(s)})
	}
	// Of the agent's protocol just what an operator may ask, in its own words.
	server.RegisterService(agentService, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Processes": method(s.Processes),
	}})
	return nil
}

// agentService is the name under which [agent.NewAgentClient] calls.
const agentService = "nanoclaw.agent.v1.Agent"

func methods(s taskapi.TTRPCTaskService) map[string]ttrpc.Method {
	return map[string]ttrpc.Method{
		"State":      method(s.State),
		"Create":     method(s.Create),
		"Start":      method(s.Start),
		"Delete":     method(s.Delete),
		"Pids":       method(s.Pids),
		"Pause":      method(s.Pause),
		"Resume":     method(s.Resume),
		"Checkpoint": method(s.Checkpoint),
		"Kill":       method(s.Kill),
		"Exec":       method(s.Exec),
		"ResizePty":  method(s.ResizePty),
		"CloseIO":    method(s.CloseIO),
		"Update":     method(s.Update),
		"Wait":       method(s.Wait),
		"Stats":      method(s.Stats),
		"Connect":    method(s.Connect),
		"Shutdown":   method(s.Shutdown),
	}
}

func method[Request, Response any](call func(context.Context, *Request) (*Response, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		var req Request
		if err := unmarshal(&req); err != nil {
			return nil, err
		}
		resp, err := call(ctx, &req)
		if err != nil {
			return nil, toStatus(err)
		}
		return resp, nil
	}
}
