package main

import (
	"cmp"
	"slices"
)

// spread is what is said of a series.
type spread struct {
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
	Max    float64 `json:"max"`
}

// spreadOf returns the spread of values, of which there is at least one. The
// median is one of them, the lower of two.
func spreadOf(values []float64) spread {
	sorted := slices.Sorted(slices.Values(values))
	return spread{Min: sorted[0], Median: sorted[(len(sorted)-1)/2], Max: sorted[len(sorted)-1]}
}

// middle returns the sample whose total is the median. Its phases add up to
// its total, which medians of phases do not.
func middle(samples []sample) sample {
	sorted := slices.SortedFunc(slices.Values(samples), func(a, b sample) int { return cmp.Compare(a.Total, b.Total) })
	return sorted[(len(sorted)-1)/2]
}

func collect[T any](list []T, value func(T) float64) []float64 {
	values := make([]float64, len(list))
	for i, v := range list {
		values[i] = value(v)
	}
	return values
}
