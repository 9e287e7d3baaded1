// Package learn turns what the audit log tells of a container into the narrowest
// entry of a policy file's agents that would have allowed it.
//
// It is a beginning for a person to look at. What the container did not do while
// it was watched is not in it, and what it was talked into doing is. What was
// denied stays denied, unless the mode was audit, which let it pass.
package learn

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/nanoclaw/nanoclaw/annotations/pattern"
	"github.com/nanoclaw/nanoclaw/shim/audit"
)

// Entry is what has been learned so far. Its zero value has learned nothing.
type Entry struct {
	records  int
	agents   map[string]bool
	programs map[string]bool
	// mounts are destinations, and whether they were written to.
	mounts    map[string]bool
	endpoints map[string]bool
	// names were asked for, connected were connected to.
	names, connected map[string]bool
	secrets          map[string]bool
	// denied and unclear are for a person to read.
	denied, unclear map[string]bool
}

// engineFiles are made by the engine for every container, and need no rule.
var engineFiles = []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/shm", "/sbin/docker-init"}

// Add learns from a record.
func (e *Entry) Add(r *audit.Record) {
	e.records++
	put(&e.agents, r.Agent)
	if r.Decision == audit.Deny && r.Would == "" {
		put(&e.denied, string(r.Event)+" "+what(r))
		return
	}
	switch r.Event {
	case audit.Exec, audit.Lifecycle:
		e.program(r)
	case audit.Mount:
		if o := r.Object; o != nil && !slices.Contains(engineFiles, o.Destination) {
			if literal(o.Destination) {
				if e.mounts == nil {
					e.mounts = map[string]bool{}
				}
				e.mounts[o.Destination] = e.mounts[o.Destination] || o.Access != "ro"
			} else {
				put(&e.unclear, "mount "+o.Destination)
			}
		}
	case audit.Network:
		if o := r.Object; o != nil && o.Host != "" {
			e.endpoint(o)
		}
	case audit.Secret:
		if o := r.Object; o != nil {
			put(&e.secrets, o.Name)
		}
	}
}

// program learns what was run: the file that the gate saw, or the first word of
// a command where that is a path.
func (e *Entry) program(r *audit.Record) {
	program := programOf(r)
	switch {
	case program == "":
	case literal(program):
		put(&e.programs, program)
	default:
		put(&e.unclear, "exec "+program)
	}
}

func programOf(r *audit.Record) string {
	switch {
	case r.Subject == nil:
		return ""
	case r.Object != nil && r.Object.Path != "":
		return r.Object.Path
	case r.Subject.Exe != "":
		return r.Subject.Exe
	case len(r.Subject.Argv) > 0:
		return r.Subject.Argv[0]
	}
	return ""
}

// endpoint learns what was connected to. A list of endpoints does not let
// datagrams pass, and that a name was looked up alone says of no port.
func (e *Entry) endpoint(o *audit.Object) {
	host := o.Host
	switch {
	case o.Protocol == "udp" || o.Protocol == "icmp" || o.Protocol == "ip":
		put(&e.unclear, strings.TrimSuffix(fmt.Sprintf("network %s %s:%d", o.Protocol, host, o.Port), ":0")+
			" (where only what is listed is reached, it is not)")
		return
	case o.Protocol == "dns" && o.Port == 0:
		put(&e.names, host)
		return
	}
	put(&e.connected, host)
	if o.Port != 0 {
		if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
			host = "[" + host + "]"
		}
		host += ":" + strconv.Itoa(int(o.Port))
	}
	p, err := pattern.ParseEndpoint(host)
	if err != nil || p.IsWild() {
		put(&e.unclear, "network "+host)
		return
	}
	put(&e.endpoints, host)
}

// literal reports whether a path can stand in a rule for itself alone: it is
// absolute, was neither cut nor escaped in the log, and has no wildcards.
func literal(p string) bool {
	return pattern.CheckPath(p) == nil && !pattern.IsWild(p) && !strings.ContainsAny(p, "…:,")
}

func put(set *map[string]bool, s string) {
	if s == "" {
		return
	}
	if *set == nil {
		*set = map[string]bool{}
	}
	(*set)[s] = true
}

func what(r *audit.Record) string {
	switch o := r.Object; {
	case programOf(r) != "":
		return programOf(r)
	case o == nil:
		return ""
	case o.Host != "":
		return o.Host
	case o.Destination != "":
		return o.Source + " -> " + o.Destination
	default:
		return o.Action + o.Name
	}
}

// Records is how many records were learned from.
func (e *Entry) Records() int { return e.records }

// Agent is the agent that the records name, where it is one.
func (e *Entry) Agent() string {
	if len(e.agents) != 1 {
		return ""
	}
	return sorted(e.agents)[0]
}

// YAML is the entry, for the agents of a policy file, as an agent of this name.
func (e *Entry) YAML(name string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Learned from %d audit records. Look at it before it is used: what was not done is not in it.", e.records)
	line("- name: %s", strconv.Quote(name))
	line("  runtime: sandbox")
	line("  vm: micro")
	if len(e.programs) > 0 {
		line("  exec:")
		line("    mode: allowlist")
		line("    allow:")
		for _, p := range sorted(e.programs) {
			line("      - %s", strconv.Quote(p))
		}
	} else {
		line("  # No program's path is on record, so nothing is said about programs.")
	}
	if len(e.mounts) > 0 {
		line("  mounts:")
		line("    allow:")
		for _, destination := range sorted(e.mounts) {
			access := "ro"
			if e.mounts[destination] {
				access = "rw"
			}
			line("      - %s", strconv.Quote(destination+":"+access))
		}
	} else {
		line("  mounts: {allow: []}")
	}
	if len(e.endpoints) > 0 {
		line("  network:")
		line("    mode: filtered")
		line("    allow:")
		for _, endpoint := range sorted(e.endpoints) {
			line("      - %s", strconv.Quote(endpoint))
		}
	} else {
		line("  # No connection is on record, so nothing is said about the network.")
	}
	for _, s := range sorted(e.names) {
		if !e.connected[s] {
			line("  # was looked up and not connected to: %s", s)
		}
	}
	for _, s := range sorted(e.secrets) {
		line("  # uses the secret %s: grant the tool that has it", s)
	}
	for _, s := range sorted(e.denied) {
		line("  # was denied, and still is: %s", s)
	}
	for _, s := range sorted(e.unclear) {
		line("  # cannot be written as a rule, add it by hand: %s", s)
	}
	return b.String()
}

func sorted(set map[string]bool) []string { return slices.Sorted(maps.Keys(set)) }
