package execgate

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
)

const (
	// maxQueued bounds the decisions that wait for the host to ask for them.
	maxQueued = 2048
	// maxReply bounds those of one answer.
	maxReply = 256
	// maxString bounds a string that the container chose.
	maxString = 256
)

var kinds = map[gateKind]string{
	gateKindKIND_EXEC: "exec", gateKindKIND_MAP: "map", gateKindKIND_OPEN: "open", gateKindKIND_CHANGE: "change",
	gateKindKIND_READONLY: "readonly", gateKindKIND_ARGS: "args", gateKindKIND_VSOCK: "vsock", gateKindKIND_BPF: "bpf",
	gateKindKIND_PERF: "perf", gateKindKIND_USERNS: "userns", gateKindKIND_MOUNT: "mount", gateKindKIND_PTRACE: "ptrace",
	gateKindKIND_HELPER: "helper", gateKindKIND_SYSFS: "sysfs",
}

var decisions = map[gateDecision]string{
	gateDecisionDECISION_ALLOW: "allow", gateDecisionDECISION_DENY: "deny", gateDecisionDECISION_HIDE: "hide",
	gateDecisionDECISION_ASK: "ask", gateDecisionDECISION_KILL: "kill",
}

// builtin are the names of what no rule of the policy forbids.
const builtin = "the gate itself"

// read takes decisions out of the kernel's buffer until that is closed.
func (g *Gate) read() {
	defer close(g.reading)
	for {
		r, err := g.reader.Read()
		if errors.Is(err, ringbuf.ErrClosed) || errors.Is(err, ringbuf.ErrFlushed) {
			return
		}
		if err != nil {
			g.records.lose(1)
			continue
		}
		d, err := g.decode(r.RawSample)
		if err != nil {
			g.records.lose(1)
			continue
		}
		g.records.put(d)
	}
}

func (g *Gate) decode(raw []byte) (*agent.Decision, error) {
	var e gateEvent
	if err := binary.Read(bytes.NewReader(raw), binary.LittleEndian, &e); err != nil {
		return nil, fmt.Errorf("a decision of %d bytes: %w", len(raw), err)
	}
	d := &agent.Decision{
		Kind: kinds[e.Kind], Decision: decisions[e.Decision], Would: e.Would != 0,
		Pid: e.Pid, Ppid: e.Ppid, Uid: e.Uid,
		Command: text(e.Comm[:]), Path: text(e.Path[:]),
		Time: time.Now().UnixNano(),
	}
	// A program with arguments that must not be is killed: it runs already.
	if e.Kind == gateKindKIND_ARGS && e.Decision == gateDecisionDECISION_DENY {
		d.Decision = decisions[gateDecisionDECISION_KILL]
	}
	d.Argv = argv(e.Argv[:min(int(e.ArgvLen), len(e.Argv))], int(e.Argc))
	d.Rule, d.Origin = g.because(&e)
	return d, nil
}

// because returns which rule made the kernel decide.
func (g *Gate) because(e *gateEvent) (name, origin string) {
	if n := int(e.Rule); n > 0 && n <= len(g.policy.Rules) {
		r := &g.policy.Rules[n-1]
		return r.Name, r.Origin
	}
	switch e.Kind {
	case gateKindKIND_EXEC, gateKindKIND_MAP, gateKindKIND_ARGS:
		return "exec.mode " + g.policy.Mode.String(), ""
	case gateKindKIND_READONLY:
		return "readonly-tools", ""
	}
	return builtin, ""
}

// String implements fmt.Stringer.
func (m Mode) String() string {
	return [...]string{Any: "any", Image: "image", Allowlist: "allowlist"}[m]
}

// text is what stands before the first zero byte.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return strings.ToValidUTF8(string(b[:min(len(b), maxString)]), "?")
}

// argv splits the first n arguments, the last of which may be cut off.
func argv(b []byte, n int) []string {
	var args []string
	for len(b) > 0 && len(args) < n {
		one, rest, _ := bytes.Cut(b, []byte{0})
		args = append(args, text(one))
		b = rest
	}
	return args
}

// kernelLost counts what the kernel had no room for.
func (g *Gate) kernelLost() uint64 {
	var n uint64
	if err := g.coll.Maps[gateMapLost].Lookup(uint32(0), &n); err != nil {
		return 0
	}
	return n
}

// Decisions returns up to 256 decisions, once there is one, and how many were
// lost since the last call. With noWait it returns what there is.
func (g *Gate) Decisions(ctx context.Context, noWait bool) ([]*agent.Decision, uint64, error) {
	if noWait {
		return g.take()
	}
	select {
	case <-g.records.some:
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	return g.take()
}

func (g *Gate) take() ([]*agent.Decision, uint64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	kernel := uint64(0)
	if !g.closed {
		kernel = g.kernelLost()
	}
	list, lost := g.records.take(kernel)
	return list, lost, nil
}

// queue keeps decisions until they are asked for, and counts what it has no
// room for.
type queue struct {
	mu   sync.Mutex
	list []*agent.Decision
	lost uint64
	// counted is how much of the kernel's own count was told already.
	counted uint64
	closed  bool
	// some has an element while there is something to take.
	some chan struct{}
	// seen is called with each.
	seen func(*agent.Decision)
}

func newQueue() *queue { return &queue{some: make(chan struct{}, 1)} }

func (q *queue) put(d *agent.Decision) {
	q.mu.Lock()
	seen := q.seen
	if len(q.list) < maxQueued {
		q.list = append(q.list, d)
	} else {
		q.lost++
	}
	q.wake()
	q.mu.Unlock()
	if seen != nil {
		seen(d)
	}
}

func (q *queue) lose(n uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lost += n
	q.wake()
}

func (q *queue) wake() {
	select {
	case q.some <- struct{}{}:
	default:
	}
}

func (q *queue) take(kernel uint64) ([]*agent.Decision, uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-q.some:
	default:
	}
	n := min(len(q.list), maxReply)
	list := q.list[:n:n]
	q.list = q.list[n:]
	lost := q.lost
	q.lost = 0
	if kernel > q.counted {
		lost += kernel - q.counted
		q.counted = kernel
	}
	if len(q.list) > 0 || q.closed {
		q.wake()
	}
	return list, lost
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.wake()
}
