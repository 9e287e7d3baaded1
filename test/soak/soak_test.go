package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nanoclaw/nanoclaw/test/internal/remains"
)

// TestSoak is a short run, in which each part is killed once.
func TestSoak(t *testing.T) {
	if os.Getenv("NANOCLAW_E2E") != "1" {
		t.Skip("needs root and a running engine: test/engine/up, then NANOCLAW_E2E=1 go test ./test/soak")
	}
	enter, err := filepath.Abs("../engine/enter")
	if err != nil {
		t.Fatal(err)
	}
	p := plan{Lifecycles: 6, Kills: len(parts), AtOnce: 4, Group: 6, Seed: uint64(time.Now().UnixNano())}
	j, err := openJournal(filepath.Join(t.TempDir(), "soak.jsonl"), &p, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), p, remains.New(enter), j); err != nil {
		t.Fatal(err)
	}
	s := j.summary()
	t.Log(s.text(p))
	if err := s.verdict(); err != nil {
		t.Error(err)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

func TestEveryPartHasItsTurn(t *testing.T) {
	for turn := range 5 {
		var got []string
		for n := range len(parts) {
			got = append(got, victim(42, turn*len(parts)+n+1))
		}
		slices.Sort(got)
		if !slices.Equal(got, slices.Sorted(slices.Values(parts))) {
			t.Errorf("turn %d: %q", turn, got)
		}
	}
}

func TestShare(t *testing.T) {
	for lifecycles, want := range map[int]int{20: 4, 40: 8, 500: 100, 1000: 200, 1020: 200} {
		if got := share(0, lifecycles, defaults); got != want {
			t.Errorf("%d kills after %d lifecycles, want %d", got, lifecycles, want)
		}
	}
	if got := share(3, 0, plan{Kills: 5}); got != 5 {
		t.Errorf("%d kills of a run without lifecycles", got)
	}
}

func TestGoesOn(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log", "soak.jsonl")
	p := plan{Seed: 7}
	if _, err := openJournal(name, &p, true); err == nil {
		t.Error("goes on with nothing")
	}
	j, err := openJournal(name, &p, false)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		if err := j.add(entry{Kind: kindLifecycle, N: n + 1}); err != nil {
			t.Fatal(err)
		}
	}
	// It was ended while it wrote.
	if _, err := j.file.WriteString(`{"kind":"lifecy`); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	q := plan{Seed: 8}
	if j, err = openJournal(name, &q, true); err != nil {
		t.Fatal(err)
	}
	if j.count(kindLifecycle) != 3 || q.Seed != 7 {
		t.Errorf("%d lifecycles, seed %d", j.count(kindLifecycle), q.Seed)
	}
	if err := j.add(entry{Kind: kindLifecycle, N: 4}); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(name)
	if err != nil || strings.Count(string(data), "\n") != 6 || strings.Contains(string(data), `"lifecy{`) {
		t.Errorf("%v:\n%s", err, data)
	}
	if err := os.WriteFile(name, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openJournal(name, &q, true); err == nil {
		t.Error("goes on with what is no log")
	}
}

func TestVerdict(t *testing.T) {
	shim := func(rss, files int) entry { return entry{Kind: kindShim, RSS: rss, Files: files} }
	grown := []entry{shim(1, 1), shim(20000, 30), shim(20000, 30), shim(20000, 30), shim(25000, 30), shim(25000, 30), shim(25000, 30)}
	leaking := []entry{shim(1, 1), shim(20000, 30), shim(20000, 30), shim(20000, 30), shim(20000, 40), shim(20000, 40), shim(20000, 40)}
	for name, c := range map[string]struct {
		entries []entry
		word    string
	}{
		"nothing is wrong":    {[]entry{{Kind: kindLifecycle, N: 1}, shim(20000, 30)}, ""},
		"a fault":             {[]entry{{Kind: kindKill, N: 1, Fault: "it hangs"}}, "it hangs"},
		"something is left":   {[]entry{{Kind: kindRemains, Left: []string{"mount /x"}}}, "mount /x"},
		"memory":              {grown, "grew by 5000 KiB"},
		"files":               {leaking, "10 more files"},
		"another shim by now": {append(append([]entry{}, grown[:4]...), append([]entry{{Kind: kindStart}}, grown[4:]...)...), ""},
	} {
		err := (&journal{entries: c.entries}).summary().verdict()
		if (err == nil) != (c.word == "") || err != nil && !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
