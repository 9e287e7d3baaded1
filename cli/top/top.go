// Package top shows the processes of a container, which ps on the host cannot:
// there is only the VM's.
//
// The container's shim is asked, on its own socket, and asks the agent in the
// guest. What comes from there has been made fit to be shown by the shim; it is
// true as far as the guest's kernel is, and nothing is decided by it.
package top

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/shim/sandbox"
)

// patience bounds the whole question; the shim gives the guest five seconds.
const patience = 10 * time.Second

// Process is one process, with PIDs as the container sees them.
type Process struct {
	PID  uint32 `json:"pid"`
	PPID uint32 `json:"ppid"`
	UID  uint32 `json:"uid"`
	// CPU is the time of CPUs that it has used, in milliseconds.
	CPU uint64 `json:"cpu_ms"`
	// Exec is the engine's id of the exec that it was started as.
	Exec    string `json:"exec,omitempty"`
	Command string `json:"command"`
}

// List is a container's processes.
type List struct {
	Container string    `json:"container"`
	Processes []Process `json:"processes"`
	// More is how many there are beside these.
	More uint32 `json:"more,omitempty"`
}

// Find returns the container that is meant, of those in VMs: by the beginning of
// its id, or by the name that named looks up.
func Find(all []sandbox.Info, container string, named func(string) (string, error)) (sandbox.Info, error) {
	if container == "" {
		return sandbox.Info{}, errors.New("a container is named by the beginning of its id, or by its name")
	}
	of := func(prefix string) (found []sandbox.Info) {
		for _, c := range all {
			if strings.HasPrefix(c.ID, prefix) {
				found = append(found, c)
			}
		}
		return found
	}
	found := of(container)
	if len(found) == 0 {
		// Of what cannot be looked up there is no name.
		if id, err := named(container); err == nil && id != "" {
			found = of(id)
		}
	}
	switch len(found) {
	case 0:
		return sandbox.Info{}, fmt.Errorf("no container %q runs in a micro-VM of this host; nanoclaw ps lists them", container)
	case 1:
		return found[0], nil
	}
	return sandbox.Info{}, fmt.Errorf("the ids of %d containers begin with %s; write more of it", len(found), container)
}

// Ask asks a container's shim.
func Ask(ctx context.Context, c sandbox.Info) (*List, error) {
	path, ok := strings.CutPrefix(c.Address, "unix://")
	if !ok {
		return nil, fmt.Errorf("the container %s was started by a release that does not tell of processes; start it again", c.ID)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("ask the shim of %s: %w", c.ID, err)
	}
	client := ttrpc.NewClient(conn)
	defer func() { _ = client.Close() }() // nothing is under way
	reply, err := agent.NewAgentClient(client).Processes(ctx, &agent.ProcessesRequest{Container: c.ID})
	if err != nil {
		return nil, fmt.Errorf("list the processes of %s: %w", c.ID, errgrpc.ToNative(err))
	}
	l := &List{Container: c.ID, Processes: []Process{}, More: reply.GetMore()}
	for _, p := range reply.GetProcesses() {
		l.Processes = append(l.Processes, Process{
			PID: p.GetPid(), PPID: p.GetPpid(), UID: p.GetUid(), CPU: p.GetCpuMs(), Exec: p.GetExec(), Command: p.GetCommand(),
		})
	}
	return l, nil
}

// Write writes the list as a table.
func (l *List) Write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	_, _ = fmt.Fprintln(t, "PID\tPPID\tUSER\tTIME\tCOMMAND") // Flush has the error
	for _, p := range l.Processes {
		_, _ = fmt.Fprintf(t, "%d\t%d\t%s\t%s\t%s\n", p.PID, p.PPID, user(p.UID), clock(p.CPU), p.Command) // Flush has the error
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if l.More > 0 {
		_, err := fmt.Fprintf(w, "and %d more\n", l.More)
		return err
	}
	return nil
}

// user is a user of the container's. Names are the image's to give: only root is
// the same everywhere.
func user(uid uint32) string {
	if uid == 0 {
		return "root"
	}
	return fmt.Sprint(uid)
}

// clock writes a time of CPUs as ps does.
func clock(ms uint64) string {
	s := ms / 1000
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}
