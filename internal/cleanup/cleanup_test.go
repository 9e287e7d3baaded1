package cleanup

import (
	"errors"
	"slices"
	"testing"
)

func recorder(s *Stack, names ...string) *[]string {
	ran := new([]string)
	for _, n := range names {
		s.Add(n, func() error { *ran = append(*ran, n); return nil })
	}
	return ran
}

func TestRunIsLastInFirstOut(t *testing.T) {
	var s Stack
	ran := recorder(&s, "a", "b", "c")
	if err := s.Run(); err != nil {
		t.Fatal(err)
	}
	if want := []string{"c", "b", "a"}; !slices.Equal(*ran, want) {
		t.Errorf("ran %v, want %v", *ran, want)
	}
}

func TestRunRunsEachOnce(t *testing.T) {
	var s Stack
	ran := recorder(&s, "a")
	for range 2 {
		if err := s.Run(); err != nil {
			t.Fatal(err)
		}
	}
	if len(*ran) != 1 {
		t.Errorf("ran %d times, want once", len(*ran))
	}
}

func TestRunJoinsErrorsAndGoesOn(t *testing.T) {
	first, second := errors.New("first"), errors.New("second")
	var s Stack
	ran := recorder(&s, "a")
	s.Add("close x", func() error { return first })
	s.Add("close y", func() error { return second })
	err := s.Run()
	if !errors.Is(err, first) || !errors.Is(err, second) {
		t.Errorf("error %v does not hold both", err)
	}
	if len(*ran) != 1 {
		t.Error("a failed release kept the next one from running")
	}
}

func TestReleaseHandsOver(t *testing.T) {
	var s Stack
	ran := recorder(&s, "a", "b")
	owned := s.Release()
	if err := s.Run(); err != nil || len(*ran) != 0 {
		t.Fatalf("the emptied stack ran %v (%v)", *ran, err)
	}
	if err := owned.Run(); err != nil || len(*ran) != 2 {
		t.Errorf("the owner's stack ran %v (%v)", *ran, err)
	}
}
