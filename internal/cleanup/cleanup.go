// Package cleanup is the stack of releases that goes with acquiring several
// resources in a row: each one that was acquired adds how it is given back, and
// a failure on the way runs what was added, in reverse.
//
//	var undo cleanup.Stack
//	defer func() { err = errors.Join(err, undo.Run()) }()
//	…
//	undo.Add("remove the run directory", func() error { return os.RemoveAll(dir) })
//	…
//	owner.release = undo.Release() // success: the owner takes over
//
// It knows nothing of what it releases, and it is not for goroutines to share.
package cleanup

import (
	"errors"
	"fmt"
)

// Stack holds releases. The zero value is an empty stack.
type Stack struct {
	releases []release
}

type release struct {
	what string
	run  func() error
}

// Add pushes a release. what says what it does, for the error of a failure:
// "unmount /x".
func (s *Stack) Add(what string, run func() error) {
	s.releases = append(s.releases, release{what, run})
}

// Run runs the releases, the last added first, each exactly once, and joins
// their errors. One that fails does not keep the others from running.
func (s *Stack) Run() error {
	var errs []error
	for len(s.releases) > 0 {
		last := len(s.releases) - 1
		r := s.releases[last]
		// Popped before it runs, so that a panic in it cannot run it twice.
		s.releases = s.releases[:last]
		if err := r.run(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.what, err))
		}
	}
	return errors.Join(errs...)
}

// Release empties the stack without running anything and returns what it held,
// for the new owner to run.
func (s *Stack) Release() *Stack {
	owned := &Stack{releases: s.releases}
	s.releases = nil
	return owned
}
