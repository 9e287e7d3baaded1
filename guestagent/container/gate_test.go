package container

import (
	"os"
	"testing"
	"time"
)

func TestNotesAreFew(t *testing.T) {
	var n notes
	now := time.Now()
	a, b := &process{}, &process{}
	for _, test := range []struct {
		what note
		at   time.Duration
		want bool
	}{
		{note{a, "deny", "curl"}, 0, true},
		{note{a, "deny", "curl"}, time.Second, false},
		{note{a, "deny", "wget"}, time.Second, true},
		{note{b, "deny", "curl"}, time.Second, true},
		{note{a, "deny", "curl"}, noteEvery + time.Second, true},
	} {
		if got := n.may(test.what, now.Add(test.at)); got != test.want {
			t.Errorf("%v after %v: %v", test.what, test.at, got)
		}
	}
	told := 4
	for i := range 2 * maxNotes {
		if n.may(note{a, "deny", string(rune(i))}, now) {
			told++
		}
	}
	if told != maxNotes {
		t.Errorf("%d lines", told)
	}
}

func TestParentOf(t *testing.T) {
	if got := parentOf(os.Getpid()); got != os.Getppid() {
		t.Errorf("parentOf = %d, want %d", got, os.Getppid())
	}
	if got := parentOf(1 << 30); got != 0 {
		t.Errorf("the parent of no process is %d", got)
	}
}
