package main

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// gate is what the exec gate costs: the same loop in two containers that differ
// in one annotation.
type gate struct {
	Image string `json:"image"`
	// Rules is how many programs may not run in the one that has the gate.
	Rules int `json:"rules"`
	// Loop is how many programs are program, one after the other, for one time.
	Loop int `json:"loop"`
	// Without and With are times of one start, in microseconds, in turn.
	Without []float64 `json:"withoutUs"`
	With    []float64 `json:"withUs"`
}

// ratio is how many times as long it takes with the gate, by what both take
// at best and by what both take in the middle.
func (g *gate) ratio() (best, median float64) {
	without, with := spreadOf(g.Without), spreadOf(g.With)
	return with.Min / without.Min, with.Median / without.Median
}

const (
	// program is the program whose start is timed.
	program = "/usr/bin/true"
	// enough is how long one time should take, in seconds: the guest tells the
	// time in hundredths.
	enough = 1.0
	// trial is the length of the loop that finds out how many that are, and the
	// least: an emulated guest on a busy host may take half a second for each.
	trial = 10
	// gateRounds are how often it is at least measured: two VMs take longer to
	// start than many rounds.
	gateRounds = 20
)

// loop starts a program n times and prints the guest's clock before and after.
// The shell does nothing else, and has neither of these built in under a path.
func loop(n int) string {
	return fmt.Sprintf("read a _ </proc/uptime; i=0; while [ $i -lt %d ]; do %s; i=$((i+1)); done; read b _ </proc/uptime; echo $a $b", n, program)
}

// programs lists files in the image that may be forbidden without being missed:
// each is another one than the shell and what the loop starts.
const programs = `for f in /usr/bin/*; do [ -f "$f" ] && [ ! -L "$f" ] && [ ! "$f" -ef /bin/sh ] && [ ! "$f" -ef ` + program + ` ] &&
	[ ! "$f" -ef /usr/bin/sleep ] && echo "$f"; done; true`

// plain is a path that means itself in a list of patterns.
var plain = regexp.MustCompile(`^/[A-Za-z0-9/._+-]+$`)

// forbidden takes up to n of the programs that a container listed.
func forbidden(list string, n int) []string {
	var paths []string
	for path := range strings.Lines(list) {
		if path = strings.TrimSpace(path); plain.MatchString(path) && len(paths) < n {
			paths = append(paths, path)
		}
	}
	return paths
}

// perStart reads what the loop printed: the time of one start in microseconds.
func perStart(printed string, n int) (float64, error) {
	words := strings.Fields(printed)
	if len(words) != 2 {
		return 0, fmt.Errorf("the loop printed %q and not two times", printed)
	}
	before, err := strconv.ParseFloat(words[0], 64)
	if err != nil {
		return 0, err
	}
	after, err := strconv.ParseFloat(words[1], 64)
	if err != nil {
		return 0, err
	}
	if after <= before {
		return 0, fmt.Errorf("by the guest's clock the loop took no time: %q", printed)
	}
	return (after - before) * 1e6 / float64(n), nil
}

// gates measures the exec gate with each runtime.
func (b *bench) gates() error {
	if b.gateImage == "" {
		return nil
	}
	if _, err := b.engine.docker("image", "inspect", b.gateImage); err != nil {
		say("the exec gate's cost is left out: the engine has no image %s; -gate names another", b.gateImage)
		return nil
	}
	for _, c := range b.f.guests() {
		var err error
		if c.Guest.Gate, err = b.gate(c.Runtime); err != nil {
			return fmt.Errorf("the exec gate with %s: %w", c.Runtime, err)
		}
	}
	return nil
}

func (b *bench) gate(runtime string) (_ *gate, err error) {
	e := b.engine
	e.image = b.gateImage
	without, err := e.start(runtime)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.remove(without)) }()
	list, err := e.docker("exec", without, "sh", "-c", programs)
	if err != nil {
		return nil, err
	}
	paths := forbidden(list, b.rules)
	if len(paths) == 0 {
		return nil, fmt.Errorf("the image %s has no programs in /usr/bin that could be forbidden", b.gateImage)
	}
	with, err := e.start(runtime, "--annotation", "io.nanoclaw.exec.deny="+strings.Join(paths, ","))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.remove(with)) }()
	if _, err := e.docker("exec", with, paths[0]); err == nil {
		return nil, fmt.Errorf("%s ran in the container in which it may not", paths[0])
	}
	g := &gate{Image: b.gateImage, Rules: len(paths)}
	// Neither trial counts: after it, both have in memory what they read.
	var took float64
	for _, id := range []string{with, without} {
		if took, err = e.loop(id, trial); err != nil {
			return nil, err
		}
	}
	g.Loop = max(trial, int(enough*1e6/took))
	for i := range max(b.runs, gateRounds) {
		before, err := e.loop(without, g.Loop)
		if err != nil {
			return nil, err
		}
		after, err := e.loop(with, g.Loop)
		if err != nil {
			return nil, err
		}
		say("gate %d: %s %.0f µs without, %.0f µs with %d rules", i+1, runtime, before, after, g.Rules)
		g.Without, g.With = append(g.Without, before), append(g.With, after)
	}
	return g, nil
}

// loop has a container start a program n times and returns how long one took.
func (e *engine) loop(id string, n int) (float64, error) {
	printed, err := e.docker("exec", id, "sh", "-c", loop(n))
	if err != nil {
		return 0, err
	}
	return perStart(printed, n)
}
