package attempts

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// raceTime is how long an attempt that races goes on.
const raceTime = 3 * time.Second

// race repeats try, while others take the steps beside it over and over, until
// it succeeds or its time is over.
//
// Both sides sleep now and then. A guest has one processor, and the sides
// alternate where one of them sleeps: an unmount does so only once it is done, so
// that try would always find the same, and a rename never does, so that programs
// that are started one after the other were seen to keep it waiting all the time.
func race(try func() error, steps ...func()) error {
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			for _, step := range steps {
				step()
				moment()
			}
		}
	}()
	defer func() { stop.Store(true); <-done }()
	err := errSilent
	for end := time.Now().Add(raceTime); time.Now().Before(end); moment() {
		if err = try(); err == nil {
			return nil
		}
	}
	return err
}

// moment is nothing, or up to a millisecond.
func moment() {
	if rand.N(2) == 0 { //nolint:gosec // no secret depends on it
		time.Sleep(rand.N(time.Millisecond)) //nolint:gosec // likewise
	}
}
