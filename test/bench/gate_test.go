package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestForbiddenPrograms(t *testing.T) {
	const list = "/usr/bin/[\n/usr/bin/a\n/usr/bin/x86_64-linux-gnu-g++\n/usr/bin/with,comma\n\n/usr/bin/b\n"
	for n, want := range map[int][]string{
		0: nil,
		2: {"/usr/bin/a", "/usr/bin/x86_64-linux-gnu-g++"},
		9: {"/usr/bin/a", "/usr/bin/x86_64-linux-gnu-g++", "/usr/bin/b"},
	} {
		if got := forbidden(list, n); !slices.Equal(got, want) {
			t.Errorf("of %d: got %q", n, got)
		}
	}
}

func TestTimePerStart(t *testing.T) {
	for printed, want := range map[string]float64{
		"10.50 12.50\n": 2000,
		"10.50":         0,
		"10.50 a":       0,
		"a 10.50":       0,
		"12.50 12.50":   0,
		"12.50 10.50":   0,
		"1 2 3":         0,
	} {
		got, err := perStart(printed, 1000)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: got %v, %v", printed, got, err)
		}
	}
	g := gate{Without: []float64{300, 100, 200}, With: []float64{110, 300, 330}}
	if best, median := g.ratio(); best != 1.1 || median != 1.5 {
		t.Errorf("got %v and %v", best, median)
	}
}

// The scripts are run here as well, so that a mistake in them does not need a
// VM to be seen.
func TestScriptsOfTheGate(t *testing.T) {
	run := func(script string) string {
		t.Helper()
		out, err := exec.Command("sh", "-c", script).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	if words := strings.Fields(run(loop(3))); len(words) != 2 {
		t.Errorf("the loop printed %q", words)
	}
	list := strings.Fields(run(programs))
	for _, needed := range []string{program, "/usr/bin/sleep"} {
		if slices.Contains(list, needed) {
			t.Errorf("%s would be forbidden", needed)
		}
	}
	if len(list) == 0 {
		t.Error("there is no program that could be forbidden")
	}
}
