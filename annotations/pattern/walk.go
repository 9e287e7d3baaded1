package pattern

import "slices"

// Walk is how far a path has come in a list of patterns, name by name. It is
// how one judges what is below a folder without seeing all of it: two folders
// whose walks are equal have the same names matched below them, at every depth.
// Its zero value has no patterns.
type Walk struct {
	patterns [][]string
	// at[i] has bit n set where the path so far is matched by the first n names
	// of the i-th pattern.
	at []uint64
	// matched is set for good once the path, or what it is below, was matched.
	matched bool
}

// NewWalk begins at "/". The patterns have passed [CheckPath].
func NewWalk(patterns []string) Walk {
	w := Walk{}
	for _, p := range patterns {
		// One bit of 64 is for the whole pattern.
		if names := split(p); len(names) < MaxSegments {
			w.patterns = append(w.patterns, names)
			w.add(names, 1)
		} else {
			// Too deep to be followed: taken for one that matches everything.
			w.matched = true
		}
	}
	return w
}

// add appends the positions of one pattern, with those that ** reaches by
// matching nothing.
func (w *Walk) add(names []string, at uint64) {
	for i, name := range names {
		if name == anyDepth && at&(1<<i) != 0 {
			at |= 1 << (i + 1)
		}
	}
	whole := uint64(1) << len(names)
	w.matched = w.matched || at&whole != 0
	w.at = append(w.at, at&^whole)
}

// Step goes one name down.
func (w Walk) Step(name string) Walk {
	next := Walk{patterns: w.patterns, at: make([]uint64, 0, len(w.at)), matched: w.matched}
	for i, names := range w.patterns {
		var at uint64
		for j, p := range names {
			switch {
			case w.at[i]&(1<<j) == 0:
			case p == anyDepth:
				at |= 1 << j
			case matchName(p, name):
				at |= 1 << (j + 1)
			}
		}
		next.add(names, at)
	}
	return next
}

// To goes down the clean path name, with or without a leading slash.
func (w Walk) To(name string) Walk {
	for _, n := range split(name) {
		w = w.Step(n)
	}
	return w
}

// Matched reports whether a pattern matches the path, or a folder that it is in.
func (w Walk) Matched() bool { return w.matched }

// Ends reports whether nothing further down can be matched that is not matched
// already.
func (w Walk) Ends() bool {
	return !slices.ContainsFunc(w.at, func(at uint64) bool { return at != 0 })
}

// Same reports whether the same is matched below both. They have the same
// patterns.
func (w Walk) Same(o Walk) bool { return w.matched == o.matched && slices.Equal(w.at, o.at) }
