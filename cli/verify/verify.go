// Package verify makes, on a live host, the checks of isolation that people are
// told to make by hand, and judges them from the host.
//
// It starts containers in micro-VMs in an engine of its own (see scratch.go):
// the host's own dockerd, containerd, shim, hypervisor, kernel and guest image,
// under a policy, a run directory and an audit log that are made for it and go
// with it. So the host's policy, its containers and its log are neither looked
// at nor touched; whether those are as they should be, preflight tells.
//
// What a container says counts only against it: a container is found to have
// seen what it must not where it shows a random token that it was never given.
// That it shows none proves something only because the same attempt shows the
// token that it was given, and because for each check the control that it is
// about can be taken out of the scratch run (Options.Break): then that check,
// and no other, has to fail.
//
// It is not a proof against attacks that it does not make: the corpus of those
// is test/bypass. It does not judge what emulation isolates, which is nothing.
package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/nanoclaw/nanoclaw/internal/printable"
)

// Check names one check.
type Check string

// The checks, in the order in which they are made.
const (
	// Files: one container does not get at the files of another.
	Files Check = "files"
	// Tools: a tool that was granted to one agent does not run for another.
	Tools Check = "tools"
	// Mounts: a VM sees nothing of the host but what was asked for.
	Mounts Check = "mounts"
	// Secrets: of a secret that was mounted nothing is left when its container
	// has exited.
	Secrets Check = "secrets"
	// Crash: when a container's init, kernel or VMM dies, no credential is in
	// anything that shows, and nothing is left.
	Crash Check = "crash"
)

// Checks are all of them.
var Checks = []Check{Files, Tools, Mounts, Secrets, Crash}

var claims = map[Check]string{
	Files:   "one container cannot read the files of another",
	Tools:   "a container cannot run a tool that is reserved for another agent",
	Mounts:  "a VM sees nothing of the host that was not asked for",
	Secrets: "a container that has exited leaves nothing of a secret that was mounted",
	Crash:   "the crash of an init, a kernel and a VMM exposes no credential and leaves nothing",
}

// ParseCheck reads a check's name.
func ParseCheck(name string) (Check, error) {
	if slices.Contains(Checks, Check(name)) {
		return Check(name), nil
	}
	return "", fmt.Errorf("there is no check %q; there are %s", name, strings.Join(names(), ", "))
}

func names() []string {
	var all []string
	for _, c := range Checks {
		all = append(all, string(c))
	}
	return all
}

// Options say what is run.
type Options struct {
	// Image is one of the host's Docker. It has to have sh, cat, cp, find, grep,
	// ln, mkfifo, mount, sleep and tail.
	Image string
	// Break names the check whose control is taken out of the scratch run; empty:
	// none.
	Break Check
	// Dir is where the scratch engine keeps its files; empty: DefaultDir.
	Dir string
	// Config is the runtime's configuration; empty: the one that Docker's names,
	// or the default. Hypervisor, kernel, image and programs come from there.
	Config string
	// Shim is the program that Docker's configuration names.
	Shim string
	// Progress is told what is being done.
	Progress func(format string, args ...any)
}

// Result is what one check found.
type Result struct {
	Check Check  `json:"check"`
	Claim string `json:"claim"`
	OK    bool   `json:"ok"`
	// Found are what must not be, or what kept the check from judging. Both make
	// it fail.
	Found []string `json:"found,omitempty"`
}

// Report is what a run found.
type Report struct {
	// OK is whether every check passed.
	OK bool `json:"ok"`
	// Broken is the check whose control was taken out; Noticed is whether that
	// check, and no other, failed.
	Broken  Check `json:"broken,omitempty"`
	Noticed bool  `json:"noticed,omitempty"`

	Image string `json:"image"`
	// Hypervisor ran the VMs; Isolates is not set where it emulates them.
	Hypervisor string   `json:"hypervisor"`
	Isolates   bool     `json:"isolates"`
	Results    []Result `json:"checks"`
}

// findings collects what the checks find; its methods are safe for concurrent
// use.
type findings struct {
	mu  sync.Mutex
	all map[Check][]string
}

func (f *findings) add(c Check, format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all == nil {
		f.all = map[Check][]string{}
	}
	// Part of it is what a container wrote.
	text := printable.Text(fmt.Sprintf(format, args...))
	if !slices.Contains(f.all[c], text) {
		f.all[c] = append(f.all[c], text)
	}
}

// unjudged is a finding about the check itself.
func (f *findings) unjudged(c Check, err error) {
	if err != nil {
		f.add(c, "could not be judged: %v", err)
	}
}

func (f *findings) report(o Options) *Report {
	r := &Report{OK: true, Broken: o.Break, Image: o.Image}
	exact := true
	for _, c := range Checks {
		found := f.all[c]
		r.Results = append(r.Results, Result{Check: c, Claim: claims[c], OK: len(found) == 0, Found: found})
		r.OK = r.OK && len(found) == 0
		exact = exact && (len(found) > 0) == (c == o.Break)
	}
	r.Noticed = o.Break != "" && exact
	return r
}

// Run makes all checks. An error means that they could not be made.
func Run(ctx context.Context, o Options) (_ *Report, err error) {
	if o.Progress == nil {
		o.Progress = func(string, ...any) {}
	}
	s, err := newScratch(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(context.WithoutCancel(ctx))) }()

	r := &run{scratch: s, brk: o.Break, image: o.Image}
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	o.Progress("two containers, each in a VM of its own")
	if err := r.startPair(ctx); err != nil {
		return nil, err
	}
	info, err := s.info(r.a)
	if err != nil {
		return nil, err
	}
	o.Progress("what each of them sees")
	r.checkFiles(ctx)
	r.checkTools(ctx)
	r.checkMounts()
	o.Progress("an exit")
	r.checkSecrets(ctx)
	o.Progress("three crashes")
	if err := r.checkCrashes(ctx); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	report := r.report(o)
	report.Hypervisor, report.Isolates = info.Hypervisor, info.Isolates
	return report, nil
}
