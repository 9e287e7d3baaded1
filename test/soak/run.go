package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nanoclaw/nanoclaw/test/internal/remains"
)

// plan is what a run is to do.
type plan struct {
	Lifecycles, Kills, AtOnce int
	// Group is after how many lifecycles everything is compared.
	Group int
	// For bounds the time in which something new is begun; 0: no bound.
	For  time.Duration
	Seed uint64
}

// soak is a run.
type soak struct {
	plan
	engine  remains.Engine
	journal *journal
	// before is what the engine had at the beginning, the constant container's
	// own included.
	before []string
	// constant is a container that is there all the time.
	constant *constant
}

// run does what of the plan is not in the journal yet. What is found wrong is
// written there; the error is of what keeps the run from going on.
func run(ctx context.Context, p plan, engine remains.Engine, j *journal) (err error) {
	if p.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.For)
		defer cancel()
	}
	s := &soak{plan: p, engine: engine, journal: j}
	clean, err := engine.AllAfterFirst()
	if err != nil {
		return err
	}
	if s.constant, err = s.newConstant(); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, s.constant.remove(), s.compare(clean))
	}()
	if s.before, err = engine.All(); err != nil {
		return err
	}
	for ctx.Err() == nil {
		lifecycles, kills := j.count(kindLifecycle), j.count(kindKill)
		if lifecycles >= p.Lifecycles && kills >= p.Kills {
			break
		}
		if err := s.lifecycles(ctx, lifecycles, min(lifecycles+p.Group, p.Lifecycles)); err != nil {
			return err
		}
		if err := s.kills(ctx, kills, min(p.Kills, share(kills, lifecycles+p.Group, p))); err != nil {
			return err
		}
		if err := s.constant.note(j); err != nil {
			return err
		}
	}
	return nil
}

// share is how many kills there are to be after so many lifecycles, so that a run
// that is ended has done its part of both.
func share(kills, lifecycles int, p plan) int {
	if lifecycles >= p.Lifecycles {
		return p.Kills
	}
	return max(kills, p.Kills*lifecycles/p.Lifecycles)
}

// lifecycles does those after the number from, up to the number to.
func (s *soak) lifecycles(ctx context.Context, from, to int) error {
	if from >= to {
		return nil
	}
	numbers := make(chan int)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs error
	for range s.AtOnce {
		wg.Go(func() {
			for n := range numbers {
				e := entry{Kind: kindLifecycle, N: n}
				timed(&e, func() error { return s.lifecycle(&e) })
				s.tell(e)
				mu.Lock()
				errs = errors.Join(errs, s.journal.add(e))
				mu.Unlock()
			}
		})
	}
	for n := from + 1; n <= to && ctx.Err() == nil; n++ {
		numbers <- n
	}
	close(numbers)
	wg.Wait()
	return errors.Join(errs, s.compare(s.before))
}

// timed does something and notes how long it took and what was wrong.
func timed(e *entry, do func() error) {
	began := time.Now()
	if err := do(); err != nil {
		e.Fault = err.Error()
	}
	e.Seconds = float64(time.Since(began).Milliseconds()) / 1000
}

// compare notes what the engine has beyond what it had before.
func (s *soak) compare(before []string) error {
	left, err := remains.Wait(func() ([]string, error) { return s.engine.Since(before) })
	if err != nil {
		return err
	}
	e := entry{Kind: kindRemains, Left: left}
	s.tell(e)
	return s.journal.add(e)
}

// tell shows a person what happens.
func (s *soak) tell(e entry) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s ", e.Kind)
	if e.N > 0 {
		fmt.Fprintf(&b, "%d ", e.N)
	}
	if e.Victim != "" {
		fmt.Fprintf(&b, "%s ", e.Victim)
	}
	if e.Seconds > 0 {
		fmt.Fprintf(&b, "%.1f s ", e.Seconds)
	}
	if e.Fault != "" {
		fmt.Fprintf(&b, "FAULT %s ", e.Fault)
	}
	if len(e.Left) > 0 {
		fmt.Fprintf(&b, "LEFT %q", e.Left)
	}
	fmt.Fprintln(os.Stderr, strings.TrimSpace(b.String()))
}
