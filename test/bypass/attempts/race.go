package attempts

import (
	"sync/atomic"
	"time"
)

// raceTime is how long an attempt that races goes on.
const raceTime = 3 * time.Second

// race repeats try, while disturb goes on beside it, until it succeeds or its
// time is over.
func race(disturb func(), try func() error) error {
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			disturb()
		}
	}()
	defer func() { stop.Store(true); <-done }()
	err := errSilent
	for end := time.Now().Add(raceTime); time.Now().Before(end); {
		if err = try(); err == nil {
			return nil
		}
	}
	return err
}
