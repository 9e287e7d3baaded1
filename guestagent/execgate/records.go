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
	"github.com/containerd/log"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
)

const (
	// maxQueued bounds the decisions that wait for the host to ask for them.
	maxQueued = 2048
	// maxReply bounds those of one answer.
	maxReply = 256
	// maxString bounds a string that the container chose.
	maxString = 256

	// settleTime bounds how long Settle waits. Only a container that has decisions
	// made all the time needs it.
	settleTime = 2 * time.Second
)

var kinds = map[gateKind]string{
	gateKindKIND_EXEC: "exec", gateKindKIND_MAP: "map", gateKindKIND_OPEN: "open", gateKindKIND_CHANGE: "change",
	gateKindKIND_READONLY: "readonly", gateKindKIND_ARGS: "args", gateKindKIND_VSOCK: "vsock", gateKindKIND_BPF: "bpf",
	gateKindKIND_PERF: "perf", gateKindKIND_USERNS: "userns", gateKindKIND_MOUNT: "mount", gateKindKIND_PTRACE: "ptrace",
	gateKindKIND_HELPER: "helper", gateKindKIND_SYSFS: "sysfs", gateKindKIND_KERNEL: "kernel",
}

var decisions = map[gateDecision]string{
	gateDecisionDECISION_ALLOW: "allow", gateDecisionDECISION_DENY: "deny", gateDecisionDECISION_HIDE: "hide",
	gateDecisionDECISION_ASK: "ask", gateDecisionDECISION_KILL: "kill",
}

// ring is the kernel's buffer of decisions.
type ring interface {
	// Read takes out the next one. It returns ringbuf.ErrFlushed once there is
	// none left of those that were there when Flush was called.
	Read() (ringbuf.Record, error)
	Flush() error
	Close() error
}

// read takes decisions out of the kernel's buffer until that is closed.
func (g *Gate) read() {
	defer close(g.reading)
	for {
		r, err := g.reader.Read()
		switch {
		case errors.Is(err, ringbuf.ErrClosed):
			return
		case errors.Is(err, ringbuf.ErrFlushed):
			g.passed()
			continue
		case err != nil:
			log.L.WithError(err).Error("exec gate: decisions are not told any more")
			g.records.lose(1)
			return
		}
		d, why, err := g.decode(r.RawSample)
		if err != nil {
			g.records.lose(1)
			continue
		}
		if d.GetDecision() == decisions[gateDecisionDECISION_ALLOW] && !g.allowed.first(d.GetPath()) {
			continue
		}
		g.records.put(d)
		if g.seen != nil && d.GetKind() != "" {
			g.seen(d, why)
		}
	}
}

// once are the programs that were told of as allowed: that they run is worth a
// record, and each of their runs is not. They are forgotten where there are too
// many, and told again.
type once map[string]struct{}

func (o once) first(program string) bool {
	if _, told := o[program]; told {
		return false
	}
	if len(o) >= maxQueued {
		clear(o)
	}
	o[program] = struct{}{}
	return true
}

// barriers are those who wait until what was decided before they came is told.
type barriers struct {
	mu sync.Mutex
	// fresh came since the buffer was last found empty, and due before.
	fresh, due []chan struct{}
}

// passed is called where the buffer was flushed and all is told. That flush may
// have begun before the last ones came to wait, for several are one: each waits
// for one that began after it came, which is the next.
func (g *Gate) passed() {
	b := &g.barriers
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, told := range b.due {
		close(told)
	}
	b.due, b.fresh = b.fresh, nil
	if len(b.due) > 0 {
		// It fails when the buffer is being closed, and then nobody waits.
		_ = g.reader.Flush()
	}
}

// Settle returns when what was decided until now has been told, or after a
// moment, so that messages come before what follows them.
func (g *Gate) Settle() {
	told := make(chan struct{})
	b := &g.barriers
	b.mu.Lock()
	b.fresh = append(b.fresh, told)
	b.mu.Unlock()
	if err := g.reader.Flush(); err != nil {
		// It is closed, and was settled before.
		return
	}
	select {
	case <-told:
	case <-g.reading:
	case <-time.After(settleTime):
	}
}

func (g *Gate) decode(raw []byte) (*agent.Decision, Reason, error) {
	var e gateEvent
	if err := binary.Read(bytes.NewReader(raw), binary.LittleEndian, &e); err != nil {
		return nil, Reason{}, fmt.Errorf("a decision of %d bytes: %w", len(raw), err)
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
	r := g.because(&e)
	if e.Decision == gateDecisionDECISION_ALLOW {
		// A rule about some of its runs did not forbid this one.
		r = Reason{}
	}
	d.Rule, d.Origin = r.Rule, r.Origin
	return d, r, nil
}

// because returns which rule made the kernel decide.
func (g *Gate) because(e *gateEvent) Reason {
	p := g.policy
	const (
		image = 0x10000000
		list  = 0x20000000
	)
	switch n := int(e.Rule); {
	case n > 0 && n <= len(p.Rules):
		return p.Rules[n-1].Reason
	case n == image && p.Image != nil:
		return *p.Image
	case n >= list && n-list < len(p.Lists):
		return p.Lists[n-list]
	}
	return Reason{Rule: "exec gate: " + kinds[e.Kind]}
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

// maxWait is how long a call waits for a decision. The host takes one that waits
// longer for lost.
const maxWait = 10 * time.Second

// Decisions returns up to 256 decisions, once there is one or after some
// seconds, and how many were lost since the last call. With noWait it returns
// what there is.
func (g *Gate) Decisions(ctx context.Context, noWait bool) ([]*agent.Decision, uint64, error) {
	if noWait {
		return g.take()
	}
	select {
	case <-g.records.some:
	case <-time.After(maxWait):
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
}

func newQueue() *queue { return &queue{some: make(chan struct{}, 1)} }

func (q *queue) put(d *agent.Decision) {
	q.mu.Lock()
	if len(q.list) < maxQueued {
		q.list = append(q.list, d)
	} else {
		q.lost++
	}
	q.wake()
	q.mu.Unlock()
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
