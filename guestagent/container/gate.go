package container

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
)

// Gate decides which programs a container runs.
type Gate interface {
	// Arm begins to judge what runs in the group of that folder. pid is the
	// process that will become the container's program.
	Arm(group string, pid int) error
	// Check returns an error if a process could not be args[0], for its message.
	Check(args, env []string, dir string) error
	// Settle waits a moment for decisions that are on their way.
	Settle()
	// Decisions returns what was decided since the last call.
	Decisions(ctx context.Context, noWait bool) ([]*agent.Decision, uint64, error)
	Close() error
}

// LoadGate puts what the host wants of a gate into the kernel. refused is called
// with all that the gate refuses and does not hide.
type LoadGate func(want *agent.ExecGate, refused func(Refusal)) (Gate, error)

// openGate is what stands where there is no gate.
type openGate struct{}

func (openGate) Arm(string, int) error                  { return nil }
func (openGate) Check([]string, []string, string) error { return nil }
func (openGate) Settle()                                {}
func (openGate) Close() error                           { return nil }

func (openGate) Decisions(context.Context, bool) ([]*agent.Decision, uint64, error) {
	return nil, 0, fmt.Errorf("the container has no exec gate: %w", errdefs.ErrFailedPrecondition)
}

// loadGate gives the container its gate, before there is anything of it.
func (c *Container) loadGate(want *agent.ExecGate) (Gate, error) {
	if want == nil {
		return openGate{}, nil
	}
	if c.cfg.LoadGate == nil {
		return nil, fmt.Errorf("this agent has no exec gate: %w", errdefs.ErrNotImplemented)
	}
	return c.cfg.LoadGate(want, c.refused)
}

// Decisions returns what the container's gate has decided since the last call.
func (c *Container) Decisions(ctx context.Context, noWait bool) ([]*agent.Decision, uint64, error) {
	c.mu.Lock()
	gate := c.gate
	c.mu.Unlock()
	if gate == nil {
		return nil, 0, fmt.Errorf("container %s is %s: %w", c.id, creating, errdefs.ErrFailedPrecondition)
	}
	ctx, cancel := c.bound(ctx)
	defer cancel()
	return gate.Decisions(ctx, noWait)
}

// How many lines about refused programs a container's users get.
const (
	maxNotes  = 100
	noteEvery = 10 * time.Second
)

// notes keeps a program that tries again and again from filling the output.
type notes struct {
	mu    sync.Mutex
	count int
	// last is bounded by count.
	last map[note]time.Time
}

// note is what a line is about, and who gets it.
type note struct {
	to            *process
	rule, program string
}

func (n *notes) may(what note, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if last, ok := n.last[what]; n.count >= maxNotes || ok && now.Sub(last) < noteEvery {
		return false
	}
	if n.last == nil {
		n.last = make(map[note]time.Time)
	}
	n.last[what] = now
	n.count++
	return true
}

// untold is a refusal that nobody was told of yet.
type untold struct {
	Refusal
	// by is the process that asked for it and those that it descends from.
	by []int
}

// Unreached writes down, in every container's list, what the host did not let them
// reach: they share a network.
func (m *Manager) Unreached(endpoints []*agent.Endpoint) {
	m.mu.Lock()
	all := slices.Collect(maps.Values(m.containers))
	m.mu.Unlock()
	for _, c := range all {
		c.mu.Lock()
		r := c.refusals
		c.mu.Unlock()
		for _, e := range endpoints {
			r.unreached(e)
		}
	}
}

// refused writes down what was refused, and tells whoever started the process
// that asked for a program why it did not run.
func (c *Container) refused(r Refusal) {
	c.refusals.add(r)
	if r.Line != "" {
		c.tell(untold{r, ancestors(int(r.Decision.GetPid()), int(r.Decision.GetPpid()))})
	}
}

func (c *Container) tell(r untold) {
	p := c.owner(r)
	if p == nil {
		return
	}
	// A shell tries each folder of its PATH, and one line is enough.
	if c.notes.may(note{p, r.Decision.GetRule(), path.Base(r.Decision.GetPath())}, time.Now()) {
		p.io.Note(r.Line)
	}
}

// owner returns the process of ours that has asked for a program: an exec, or
// init. It returns nil where there is none, or where one is being started that
// it may be: its PID is known only after it has begun to run.
func (c *Container) owner(r untold) *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := make(map[int]*process, len(c.execs)+1)
	starting := false
	for _, p := range c.execs {
		if p == nil {
			starting = true
			continue
		}
		known[p.child.PID()] = p
	}
	if c.init != nil {
		known[c.init.child.PID()] = c.init
	}
	for _, pid := range r.by {
		if p := known[pid]; p != nil {
			return p
		}
	}
	if starting && len(c.early) < maxNotes {
		c.early = append(c.early, r)
		return nil
	}
	return c.init
}

// maxAncestors bounds how far up a process's ancestors are looked for.
const maxAncestors = 64

// ancestors returns pid and those that it descends from. It may be gone by now,
// and its parent is known all the same.
func ancestors(pid, parent int) []int {
	var list []int
	for pid > 1 && len(list) < maxAncestors {
		list = append(list, pid)
		pid, parent = parent, parentOf(parent)
	}
	return list
}

func parentOf(pid int) int {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// The name in brackets may hold anything.
	_, rest, ok := cutLast(string(raw), ")")
	if !ok {
		return 0
	}
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return 0
	}
	n, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return n
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
