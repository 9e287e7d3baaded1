package top

import (
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/ttrpc"

	"context"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/shim/sandbox"
)

func TestFind(t *testing.T) {
	all := []sandbox.Info{{ID: "aa1"}, {ID: "aa2"}, {ID: "bb"}}
	named := func(name string) (string, error) {
		switch name {
		case "mine":
			return "bb", nil
		case "runc":
			return "cc", nil
		}
		return "", errors.New("unknown")
	}
	for asked, want := range map[string]string{"b": "bb", "aa1": "aa1", "mine": "bb", "aa": "", "runc": "", "other": "", "": ""} {
		got, err := Find(all, asked, named)
		if got.ID != want || (err == nil) != (want != "") {
			t.Errorf("%q is %q, %v; want %q", asked, got.ID, err, want)
		}
	}
}

func TestAsk(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	server.RegisterService("nanoclaw.agent.v1.Agent", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Processes": func(_ context.Context, unmarshal func(any) error) (any, error) {
			var req agent.ProcessesRequest
			if err := unmarshal(&req); err != nil || req.GetContainer() != "c1" {
				return nil, errors.New("not this one")
			}
			return &agent.ProcessesResponse{More: 3, Processes: []*agent.Process{
				{Pid: 1, Command: "sleep 1000", CpuMs: 3_661_500}, {Pid: 7, Ppid: 1, Uid: 1000, Command: "sh"},
			}}, nil
		},
	}})
	go func() { _ = server.Serve(context.Background(), l) }()
	t.Cleanup(func() { _ = server.Close() })

	list, err := Ask(t.Context(), sandbox.Info{ID: "c1", Address: "unix://" + socket})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := list.Write(&b); err != nil {
		t.Fatal(err)
	}
	const want = `PID   PPID   USER   TIME       COMMAND
1     0      root   01:01:01   sleep 1000
7     1      1000   00:00:00   sh
and 3 more
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
	for _, c := range []sandbox.Info{{ID: "c2", Address: "unix://" + socket}, {ID: "c1", Address: "unix:///no/such"}, {ID: "c1"}} {
		if _, err := Ask(t.Context(), c); err == nil {
			t.Errorf("%+v has processes", c)
		}
	}
}
