package audit

import (
	"fmt"
	"strings"
	"time"
)

// Filter chooses records. Its zero value chooses all.
type Filter struct {
	// Container is the beginning of a container's id, Agent an agent's name.
	Container, Agent string
	// Events are those wanted; none: all.
	Events []Event
	// Violations chooses what a container was not allowed to do.
	Violations bool
	Since      time.Time
}

// Match reports whether the filter chooses a record. Records of the log itself
// are about everybody, and chosen with any container.
func (f *Filter) Match(r *Record) bool {
	own := r.Container == ""
	if !strings.HasPrefix(r.Container, f.Container) && !own {
		return false
	}
	if f.Agent != "" && r.Agent != f.Agent && !own {
		return false
	}
	if f.Violations && !r.Violation() || r.Time.Before(f.Since) {
		return false
	}
	if len(f.Events) == 0 {
		return true
	}
	for _, e := range f.Events {
		if r.Event == e {
			return true
		}
	}
	return false
}

// Header names the columns of Line.
func Header() string { return columns("TIME", "CONTAINER", "AGENT", "EVENT", "DECISION", "WHAT") }

// Line is a record for a person: one line, without what only a program wants.
// What it prints has been escaped when it was written.
func (r *Record) Line() string {
	decision := string(r.Decision)
	if r.Would != "" {
		decision = "would " + string(r.Would)
	}
	container := r.Container
	if len(container) > shortID {
		container = container[:shortID]
	}
	return columns(r.Time.Local().Format("2006-01-02 15:04:05.000"), container, r.Agent, string(r.Event), decision, r.what())
}

// shortID is the length of an id as Docker prints it.
const shortID = 12

func columns(at, container, agent, event, decision, what string) string {
	for _, s := range []*string{&container, &agent, &decision} {
		if *s == "" {
			*s = "-"
		}
	}
	return strings.TrimRight(fmt.Sprintf("%-23s  %-12s  %-14s  %-9s  %-10s  %s", at, container, agent, event, decision, what), " ")
}

// what is a record's subject, object and rule in words.
func (r *Record) what() string {
	var words []string
	add := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	if o := r.Object; o != nil {
		r.whatOf(o, add)
	}
	if s := r.Subject; s != nil {
		if s.Exe != "" {
			add("%s", s.Exe)
		}
		if len(s.Argv) > 0 {
			add("[%s]", strings.Join(s.Argv, " "))
		}
		if s.UID != nil {
			add("uid=%d", *s.UID)
		}
		if s.PID != 0 {
			add("pid=%d", s.PID)
		}
	}
	if r.Rule != "" {
		from := ""
		if r.Object != nil && r.Object.Layer != "" {
			from = " of the " + r.Object.Layer
		}
		add("rule %q%s", r.Rule, from)
	}
	if a := r.Approval; a != nil {
		add("approval %s by %s (%s)", orNone(a.ID), orNone(a.By), orNone(a.Scope))
	}
	if r.Object != nil && r.Object.Detail != "" {
		add("– %s", r.Object.Detail)
	}
	return strings.Join(words, " ")
}

func (r *Record) whatOf(o *Object, add func(string, ...any)) {
	for _, s := range []string{o.Action, o.Method, o.Name} {
		if s != "" {
			add("%s", s)
		}
	}
	switch {
	case o.Source != "" && o.Path != "" && o.Path != o.Source:
		add("%s (%s)", o.Source, o.Path)
	case o.Source != "":
		add("%s", o.Source)
	case o.Host == "" && o.Path != "":
		add("%s", o.Path)
	}
	if o.Destination != "" {
		add("-> %s", o.Destination)
	}
	if o.Access != "" {
		add("%s", o.Access)
	}
	if o.Host != "" {
		host := o.Host
		if o.Port != 0 {
			host = fmt.Sprintf("%s:%d", o.Host, o.Port)
		}
		add("%s%s", host, o.Path)
	}
	if o.Hypervisor != "" {
		isolation := ""
		if o.Emulated {
			isolation = ": no isolation"
		}
		add("in %s%s", o.Hypervisor, isolation)
	}
	if o.Mode != "" && o.Mode != "enforce" {
		add("mode=%s", o.Mode)
	}
	if o.Status != nil {
		add("status %d", *o.Status)
	}
	if o.OOM {
		add("out of memory")
	}
	if o.Count != 0 {
		add("%d records", o.Count)
	}
	if o.File != "" {
		add("%s", o.File)
	}
}
