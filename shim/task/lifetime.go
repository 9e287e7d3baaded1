package task

import (
	"context"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/shim/audit"
)

const (
	// stopGrace is how long a container whose lifetime is over may take to end
	// by itself: Docker's own for "docker stop".
	stopGrace = 10 * time.Second
	// killGrace is how long its guest may then take to kill it. What is still
	// there is ended with the VM.
	killGrace = 10 * time.Second
)

// grace says how long the end of a lifetime waits at each step.
type grace struct{ stop, kill time.Duration }

// bound ends the container when its lifetime, which begins now, is over. The
// clock is the host's and goes on while the container is paused: what it bounds
// is for how long something is there, not for how long it works.
func (s *Service) bound(c *container) {
	l := c.policy.Limits.Lifetime
	if l == nil {
		return
	}
	go func() {
		if !c.endsWithin(time.Duration(l.Value) * time.Second) {
			s.outlived(c, l)
		}
	}()
}

// endsWithin waits for the container's end, and reports whether it came in time.
func (c *container) endsWithin(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c.init.done:
		return true
	case <-t.C:
		return false
	}
}

// outlived ends a container as "docker stop" does, and then by force. None of
// it depends on the guest's good will, nor on the record of it.
func (s *Service) outlived(c *container, l *annotations.Limit) {
	const rule = "limits.lifetime"
	logger := log.G(s.ctx).WithField("container", c.id)
	lifetime := annotations.FormatLimit("lifetime", l.Value)
	logger.Infof("the lifetime of the container, %s, is over (rule %s of %s); it is stopped", lifetime, rule, l.Describe())
	c.audit.note(s.ctx, audit.Entry{Event: audit.Lifecycle, Rule: rule, Object: &audit.Object{
		Action: "lifetime-over", Layer: l.Describe(), Detail: "its lifetime of " + lifetime + " is over",
	}})
	// Side by side: a guest that is slow to take a signal gets no more time.
	go func() {
		if err := s.interrupt(c); err != nil && !errdefs.IsNotFound(err) {
			logger.WithError(err).Warn("the container whose lifetime is over did not take SIGTERM")
		}
	}()
	if c.endsWithin(s.grace.stop) {
		return
	}
	go func() {
		if _, err := s.Kill(s.ctx, &taskapi.KillRequest{ID: c.id, Signal: sigkill}); err != nil && !errdefs.IsNotFound(err) {
			logger.WithError(err).Warn("the container whose lifetime is over did not take SIGKILL")
		}
	}()
	if c.endsWithin(s.grace.kill) {
		return
	}
	logger.Errorf("the guest does not end the container whose lifetime is over within %s of SIGKILL; its virtual machine is ended", s.grace.kill)
	c.sandbox.Kill()
}

// interrupt sends SIGTERM; a paused container is resumed to receive it, as
// Docker does.
func (s *Service) interrupt(c *container) error {
	ctx, cancel := context.WithTimeout(s.ctx, s.grace.stop)
	defer cancel()
	if _, err := s.Kill(ctx, &taskapi.KillRequest{ID: c.id, Signal: sigterm}); err != nil {
		return err
	}
	if !c.isPaused() {
		return nil
	}
	_, err := s.Resume(ctx, &taskapi.ResumeRequest{ID: c.id})
	return err
}

const sigterm = 15
