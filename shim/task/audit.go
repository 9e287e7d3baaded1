package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/shim/audit"
	"github.com/nanoclaw/nanoclaw/shim/config"
	"github.com/nanoclaw/nanoclaw/shim/sandbox"
)

// recordPatience bounds how long a container's end waits for the audit log.
const recordPatience = 10 * time.Second

// recording is a container's side of the audit log: what the shim itself does
// and sees. Producers in the guest hand their entries to its Post.
type recording struct {
	*audit.Recorder
	log      *audit.Log
	required bool
	// stop ends the container, once there is one.
	stop atomic.Pointer[func()]
	// complained is when a failure was last logged, in seconds.
	complained atomic.Int64
	// mounts are the decisions that are not recorded yet.
	mounts []audit.Entry
}

func newRecording(ctx context.Context, cfg config.Audit, id, agent string) *recording {
	r := &recording{
		log:      audit.NewLog(audit.Options{Dir: cfg.Dir, MaxSize: int64(cfg.MaxSize), Keep: cfg.Keep}),
		required: cfg.OnFull == config.OnFullStop,
	}
	r.Recorder = audit.NewRecorder(audit.RecorderOptions{
		Log:      r.log,
		Identity: audit.Identity{Container: id, Agent: agent},
		Rate:     cfg.Rate, Burst: cfg.Burst,
		Required: r.required,
		Failed:   func(err error) { r.failed(ctx, id, err) },
	})
	return r
}

// failed is told of records that could not be written. A container without a
// record does not go on, unless the configuration says so.
func (r *recording) failed(ctx context.Context, id string, err error) {
	logger := log.G(ctx).WithError(err).WithField("container", id)
	if stop := r.stop.Load(); r.required && stop != nil {
		logger.Error("the container is stopped, since what it does cannot be recorded (audit.on_full: stop)")
		(*stop)()
		return
	}
	now := time.Now().Unix()
	if last := r.complained.Load(); now-last >= 10 && r.complained.CompareAndSwap(last, now) {
		logger.Error("what the container does cannot be recorded")
	}
}

func (r *recording) close() {
	r.Close()
	r.log.Close()
}

// must records what is about to be done. An error means that it must not be.
func (r *recording) must(ctx context.Context, entries ...audit.Entry) error {
	if err := r.Record(ctx, entries...); err != nil {
		return fmt.Errorf("nanoclaw does nothing that it cannot record (audit.on_full: stop): %w", err)
	}
	return nil
}

// note records what has happened, whatever becomes of the record: it is logged
// where it cannot be written.
func (r *recording) note(ctx context.Context, entries ...audit.Entry) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordPatience)
	defer cancel()
	if err := r.Record(ctx, entries...); err != nil {
		log.G(ctx).WithError(err).Error("the audit log lacks what has happened")
	}
}

// mount keeps a decision about a mount for created or notCreated.
func (r *recording) mount(m annotations.Mount, refused, would error) {
	e := audit.Entry{Event: audit.Mount, Decision: audit.Allow, Object: &audit.Object{
		Source: m.Source.Asked, Destination: m.Destination, Access: "rw",
	}}
	if m.Source.Path != m.Source.Asked {
		e.Object.Path = m.Source.Path
	}
	if m.ReadOnly {
		e.Object.Access = "ro"
	}
	deny(&e, refused)
	if would != nil {
		deny(&e, would)
		e.Decision, e.Would = audit.Allow, audit.Deny
	}
	r.mounts = append(r.mounts, e)
}

// deny makes an entry one of a refusal, where err is one.
func deny(e *audit.Entry, err error) {
	var refusal *annotations.Refusal
	if errors.As(err, &refusal) {
		e.Decision, e.Rule = audit.Deny, refusal.Rule
		e.Object.Layer, e.Object.Detail = string(refusal.Layer), refusal.Why
	}
}

// created records, before there is a VM, that there will be one, what is mounted
// into it, and which secrets are used for it.
func (r *recording) created(ctx context.Context, hv hypervisor.Hypervisor, p *annotations.Policy) error {
	entries := append(append(r.mounts, granted(p)...), audit.Entry{Event: audit.Lifecycle, Decision: audit.Allow, Object: &audit.Object{
		Action: "create", Mode: string(p.Mode), Hypervisor: hv.Name(), Emulated: !hv.Isolates(),
	}})
	r.mounts = nil
	return r.must(ctx, entries...)
}

// notCreated records that a container was refused, or could not be made.
func (r *recording) notCreated(ctx context.Context, err error) {
	e := audit.Entry{Event: audit.Lifecycle, Object: &audit.Object{Action: "create"}}
	deny(&e, err)
	if e.Decision == "" {
		e.Object.Action, e.Object.Detail = "create-failed", err.Error()
	}
	r.note(ctx, append(r.mounts, e)...)
	r.mounts = nil
}

// starting records a process before it runs: what, and as whom. Its environment
// is no one's business.
func starting(exec string, p *specs.Process) audit.Entry {
	e := audit.Entry{Event: audit.Lifecycle, Decision: audit.Allow, Object: &audit.Object{Action: "start", Exec: exec}}
	if exec != "" {
		e.Event = audit.Exec
	}
	if p != nil {
		uid := p.User.UID
		e.Subject = &audit.Subject{UID: &uid, Argv: p.Args}
	}
	return e
}

// execProcess reads an exec's document. One that cannot be read is the guest's
// to refuse, and has nothing to record.
func execProcess(spec []byte) *specs.Process {
	var p specs.Process
	if err := json.Unmarshal(spec, &p); err != nil {
		return nil
	}
	return &p
}

// ended records that a process did not start, or how it ended.
func ended(p *process, action string, object audit.Object) audit.Entry {
	object.Action, object.Exec = action, p.exec
	e := audit.Entry{Event: audit.Lifecycle, Object: &object}
	if p.exec != "" {
		e.Event = audit.Exec
	}
	return e
}

// fell records that a VM ended under its container.
func fell(s vm) audit.Entry {
	e := audit.Entry{Event: audit.Boundary, Object: &audit.Object{Action: string(s.End())}}
	if cause := s.Cause(); cause != nil {
		e.Object.Detail = cause.Error()
	}
	if s.End() == sandbox.EndStopped {
		// The host's own doing, of which nothing else is on record.
		e.Event = audit.Lifecycle
	}
	return e
}
