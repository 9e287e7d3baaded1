package main

import (
	"fmt"
	"slices"
	"strings"
)

// What a shim's memory may grow by between the beginning and the end of a run, in
// KiB, and its open files. The runtime of its language gives memory back when it
// likes, so a few MiB are no growth.
const (
	maxGrowth = 4 << 10
	maxFiles  = 2
)

// warm is how many sizes from each end of a run are compared; before the first
// ones a shim has not done all that it does.
const warm = 3

// summary is what a run came to.
type summary struct {
	lifecycles, kills   []float64 // seconds
	killed              map[string]int
	comparisons, faults int
	rssBefore, rssAfter int
	fdsBefore, fdsAfter int
	execs               int
	first               []string
}

func (j *journal) summary() summary {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := summary{killed: map[string]int{}}
	// A run that goes on has another constant container: only one is compared.
	var shims []entry
	for _, e := range j.entries {
		switch e.Kind {
		case kindStart:
			shims = nil
		case kindLifecycle:
			s.lifecycles = append(s.lifecycles, e.Seconds)
		case kindKill:
			s.kills = append(s.kills, e.Seconds)
			s.killed[e.Victim]++
		case kindRemains:
			s.comparisons++
		case kindShim:
			shims = append(shims, e)
		}
		if e.Fault != "" || len(e.Left) > 0 {
			s.faults++
			s.first = append(s.first, fmt.Sprintf("%s %d %s: %s %q", e.Kind, e.N, e.Victim, e.Fault, e.Left))
		}
	}
	if n := len(shims); n > 0 {
		s.execs = shims[n-1].Execs
	}
	if n := len(shims); n > 2*warm {
		s.rssBefore, s.fdsBefore = middle(shims[1 : 1+warm])
		s.rssAfter, s.fdsAfter = middle(shims[n-warm:])
	}
	return s
}

// middle is the middle size of a few.
func middle(list []entry) (rss, files int) {
	var sizes, counts []int
	for _, e := range list {
		sizes, counts = append(sizes, e.RSS), append(counts, e.Files)
	}
	slices.Sort(sizes)
	slices.Sort(counts)
	return sizes[len(sizes)/2], counts[len(counts)/2]
}

func (s summary) text(p plan) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d lifecycles, %d of %d kills", len(s.lifecycles), p.Lifecycles, len(s.kills), p.Kills)
	for _, part := range parts {
		fmt.Fprintf(&b, ", %s %d", part, s.killed[part])
	}
	fmt.Fprintf(&b, "\na lifecycle took %.1f s (middle), %.1f s at most; a kill %.1f s, %.1f s at most\n",
		at(s.lifecycles, 0.5), at(s.lifecycles, 1), at(s.kills, 0.5), at(s.kills, 1))
	if s.rssBefore > 0 {
		fmt.Fprintf(&b, "the shim that ran all the time, entered %d times: %d KiB and %d files at first, %d KiB and %d files at the end\n",
			s.execs, s.rssBefore, s.fdsBefore, s.rssAfter, s.fdsAfter)
	} else {
		fmt.Fprintln(&b, "too short to say whether a shim grows")
	}
	fmt.Fprintf(&b, "everything was compared with the beginning %d times\n", s.comparisons)
	if len(s.lifecycles) < p.Lifecycles || len(s.kills) < p.Kills {
		fmt.Fprintln(&b, "not all was done: -resume goes on")
	}
	return b.String()
}

// at is the value below which that part of the list lies.
func at(list []float64, part float64) float64 {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(list))
	return sorted[int(part*float64(len(sorted)-1))]
}

// verdict is what is wrong.
func (s summary) verdict() error {
	if s.faults > 0 {
		return fmt.Errorf("%d faults:\n%s", s.faults, strings.Join(s.first, "\n"))
	}
	if grown := s.rssAfter - s.rssBefore; grown > maxGrowth {
		return fmt.Errorf("the shim grew by %d KiB", grown)
	}
	if grown := s.fdsAfter - s.fdsBefore; grown > maxFiles {
		return fmt.Errorf("the shim has %d more files open", grown)
	}
	return nil
}
