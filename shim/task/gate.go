package task

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nanoclaw/nanoclaw/annotations"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/shim/audit"
	"github.com/nanoclaw/nanoclaw/shim/share"
)

// execGate is what the guest's kernel has to hold a container's programs to; nil
// where the policy has nothing to say about them.
func execGate(p *annotations.Policy, spec *specs.Spec, rootfs string) (*agent.ExecGate, error) {
	held := p.Held()
	g := &agent.ExecGate{}
	if err := addRules(g, &held.Exec, spec, rootfs, false); err != nil {
		return nil, err
	}
	if held != p {
		// What may run is recorded as well, for who wants to learn from it.
		g.RecordAllowed = true
		recorded := p.Exec.Beyond(&held.Exec)
		if err := addRules(g, &recorded, spec, rootfs, true); err != nil {
			return nil, err
		}
	}
	if g.Image == nil && len(g.Lists)+len(g.Rules) == 0 && !g.RecordAllowed {
		return nil, nil
	}
	return g, nil
}

// addRules adds rules to g, which are only recorded if would is set.
func addRules(g *agent.ExecGate, e *annotations.Exec, spec *specs.Spec, rootfs string, would bool) error {
	reason := func(from annotations.Origin, rule, why, instead string) *agent.ExecReason {
		return &agent.ExecReason{Rule: rule, Origin: from.Describe(), Why: why, Instead: instead, Would: would}
	}
	if e.Mode != annotations.ExecAny {
		at, err := share.ImageTime(rootfs)
		if err != nil {
			return fmt.Errorf("exec.mode %s: %w", e.Mode, err)
		}
		from := annotations.Origin{Layer: annotations.LayerBaseline}
		if e.From != nil {
			from = *e.From
		}
		g.ImageTime = at.UnixNano()
		g.Image = reason(from, "exec.mode "+string(e.Mode), "only what came with the image runs, and what has not been changed since",
			"put the program into the image")
		g.Trusted = engineInit(spec)
	}
	for _, l := range e.Allow {
		list := uint32(len(g.Lists))
		g.Lists = append(g.Lists, reason(l.Origin, "exec.allow", "only listed programs run", "have it listed there"))
		for _, r := range l.Programs {
			rule := program(r, agent.ExecRule_ACTION_LIST, reason(l.Origin, "exec.allow "+r.String(), "", ""))
			rule.List = list
			g.Rules = append(g.Rules, rule)
		}
	}
	for _, r := range e.Deny {
		why, instead := "", "do without it, or have that rule changed"
		if r.Tool != "" {
			why = "it belongs to the tool " + r.Tool + ", which is not granted"
			instead = "do without it, or have the tool granted"
		}
		g.Rules = append(g.Rules, program(r, agent.ExecRule_ACTION_DENY, reason(r.Origin, "exec.deny "+r.String(), why, instead)))
	}
	for _, r := range e.Ask {
		g.Rules = append(g.Rules, program(r, agent.ExecRule_ACTION_ASK,
			reason(r.Origin, "exec.ask "+r.String(), "a person has to agree, and there is nobody to ask", "have it done by somebody who may")))
	}
	for _, r := range e.Readonly {
		g.Rules = append(g.Rules, program(r, agent.ExecRule_ACTION_READONLY,
			reason(r.Origin, "readonly_tools "+r.String(), "neither it nor what it starts changes a file", "")))
	}
	return nil
}

func program(r annotations.ExecRule, action agent.ExecRule_Action, why *agent.ExecReason) *agent.ExecRule {
	return &agent.ExecRule{Action: action, Path: r.Path, Argv: r.Argv, Sha256: r.SHA256, Reason: why}
}

// initFolders are where engines are installed, which only the host's root can
// write to.
var initFolders = []string{"/usr/bin", "/usr/local/bin", "/usr/sbin", "/usr/local/sbin", "/usr/libexec/docker", "/usr/lib/docker", "/bin", "/sbin"}

// engineInit returns where the program of docker run --init is, which comes from
// the host and with no image.
func engineInit(spec *specs.Spec) []string {
	const at = "/sbin/docker-init"
	for _, m := range spec.Mounts {
		if m.Destination == at && path.Base(m.Source) == "docker-init" && slices.Contains(initFolders, path.Dir(m.Source)) {
			return []string{at}
		}
	}
	return nil
}

// lastDecisions bounds how long a container's end waits for what its gate has
// still to tell.
const lastDecisions = 2 * time.Second

// betweenDecisions keeps a guest from having the shim ask it all the time. What
// it has to tell meanwhile comes with the next answer.
const betweenDecisions = 20 * time.Millisecond

// follow hands what the guest's gate decides to the audit log until the guest is
// gone. What it is told is the guest's word.
func (c *container) follow(ctx context.Context) {
	for {
		_, err := c.decisions(ctx, false)
		// A guest that is paused does not answer, and will again.
		if err != nil && (!errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil) {
			log.G(ctx).WithError(err).WithField("container", c.id).Debug("the exec gate tells no more")
			return
		}
		// A guest may answer at once, and with nothing.
		select {
		case <-time.After(betweenDecisions):
		case <-ctx.Done():
			return
		}
	}
}

// followEnd takes what is left when the container's program has ended.
func (c *container) followEnd(ctx context.Context) {
	if !c.gated {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lastDecisions)
	defer cancel()
	for {
		if n, err := c.decisions(ctx, true); n == 0 || err != nil {
			return
		}
	}
}

// decisions takes one answer: what there is now, or what there is next.
func (c *container) decisions(ctx context.Context, noWait bool) (int, error) {
	r, err := c.sandbox.Agent().RPC().Decisions(ctx, &agent.DecisionsRequest{Container: c.id, NoWait: noWait})
	if err != nil {
		return 0, err
	}
	if r.GetLost() > 0 {
		c.audit.Dropped(r.GetLost())
	}
	for _, d := range r.GetDecisions() {
		c.audit.Post(decided(d))
	}
	return len(r.GetDecisions()), nil
}

// decided is a decision of the gate as the audit log has it.
func decided(d *agent.Decision) audit.Entry {
	uid := d.GetUid()
	e := audit.Entry{
		Event: audit.Exec, Rule: d.GetRule(),
		Subject: &audit.Subject{PID: int(d.GetPid()), PPID: int(d.GetPpid()), UID: &uid, Exe: d.GetCommand(), Argv: d.GetArgv()},
		Object:  &audit.Object{Action: d.GetKind(), Path: d.GetPath(), Layer: d.GetOrigin()},
	}
	switch d.GetKind() {
	case "open", "change", "readonly":
		e.Event = audit.File
	case "vsock", "bpf", "perf", "userns", "mount", "ptrace", "helper", "sysfs", "kernel":
		e.Event = audit.Boundary
	}
	decision := audit.Deny
	switch d.GetDecision() {
	case "allow":
		decision = audit.Allow
	case "ask":
		// There is nobody to ask, so it was denied.
		e.Object.Detail = "nobody is there to be asked"
	case "hide", "kill":
		e.Object.Detail = d.GetDecision()
	}
	if d.GetWould() {
		e.Decision, e.Would = audit.Allow, decision
	} else {
		e.Decision = decision
	}
	return e
}
