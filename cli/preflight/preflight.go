// Package preflight answers the five lines of the list that is gone through
// before a host runs agents: the engine is healthy, the runtime is installed
// rightly, the permissions were reviewed, the audit log is on, and no container
// has a broad part of the host.
//
// It judges this host's own configuration and containers, and starts nothing;
// whether containers are isolated here is what verify tries. The one thing that
// it writes is a record in the audit log, to see that this can be done.
package preflight

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/cli/doctor"
	"github.com/nanoclaw/nanoclaw/cli/signoff"
	"github.com/nanoclaw/nanoclaw/shim/audit"
	"github.com/nanoclaw/nanoclaw/shim/config"
	"github.com/nanoclaw/nanoclaw/shim/intercept"
	"github.com/nanoclaw/nanoclaw/shim/sandbox"
)

// Line is one line of the list.
type Line struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Found is what is so, where all is well; Problems what is not, each with what
	// to do.
	Found    string    `json:"found,omitempty"`
	Problems []Problem `json:"problems,omitempty"`
}

// Problem is what keeps a line from being ticked off.
type Problem struct {
	What string `json:"what"`
	Fix  string `json:"fix,omitempty"`
}

func (l *Line) problem(fix, format string, args ...any) {
	l.Problems = append(l.Problems, Problem{What: fmt.Sprintf(format, args...), Fix: fix})
}

func (l *Line) done(format string, args ...any) Line {
	l.OK = len(l.Problems) == 0
	if l.OK {
		l.Found = fmt.Sprintf(format, args...)
	}
	return *l
}

// Report is the whole list.
type Report struct {
	OK    bool   `json:"ok"`
	Lines []Line `json:"lines"`
}

// Options say what is looked at.
type Options struct {
	// Config is the runtime's configuration. It must be the one that Docker's
	// names.
	Config string
	// Emulation accepts a host that isolates nothing.
	Emulation bool
}

// Examine goes through the list. found is what doctor says of the host.
func Examine(found doctor.Report, o Options) Report {
	lines := []Line{engine(found), installed(found, o.Emulation)}
	cfg, err := config.Load(o.Config)
	if err != nil {
		// Nobody knows which policy, log and containers are meant.
		for _, name := range []string{"permissions", "audit", "volumes"} {
			l := Line{Name: name}
			l.problem("mend the configuration", "not looked at: %v", err)
			lines = append(lines, l.done(""))
		}
	} else {
		policy, err := config.LoadPolicy(cfg.Policy)
		lines = append(lines, permissions(cfg, policy, err), audited(cfg), volumes(cfg, policy, err))
	}
	r := Report{OK: true, Lines: lines}
	for _, l := range lines {
		r.OK = r.OK && l.OK
	}
	return r
}

// engine is about the daemon that runs.
func engine(found doctor.Report) Line {
	l, said := Line{Name: "engine"}, ""
	for _, s := range found.Sections {
		for _, i := range s.Items {
			switch {
			case s.Name != doctor.SectionDocker || i.Name != doctor.ItemDaemon:
			case i.Status == doctor.OK:
				said = i.Found
			default:
				l.problem(i.Fix, "%s", i.Found)
			}
		}
	}
	if said == "" && len(l.Problems) == 0 {
		l.problem("", "Docker was not asked")
	}
	return l.done("Docker answers: %s", said)
}

// installed is about all else that doctor looks at. A warning is for somebody to
// know of before, not after: it is a problem here.
func installed(found doctor.Report, emulation bool) Line {
	l := Line{Name: "installation"}
	for _, s := range found.Sections {
		for _, i := range s.Items {
			if s.Name == doctor.SectionDocker && i.Name == doctor.ItemDaemon {
				continue
			}
			if i.Status == doctor.Warning && s.Name == doctor.SectionHypervisor && emulation && found.Isolation == doctor.Emulation {
				continue
			}
			if i.Status == doctor.Problem || i.Status == doctor.Warning {
				l.problem(i.Fix, "%s, %s: %s", strings.ToLower(s.Name), i.Name, i.Found)
			}
		}
	}
	return l.done("containers can start, with %s; isolation: %s", found.Hypervisor, found.Isolation)
}

// permissions is about the review of the policy, and about what it gives being there.
func permissions(cfg config.Config, policy *annotations.File, err error) Line {
	l := Line{Name: "permissions"}
	const review = "review it (nanoclaw policy check, nanoclaw policy matrix), then nanoclaw policy sign-off"
	if err != nil {
		l.problem("nanoclaw policy check tells all that is wrong", "the policy cannot be used: %v", err)
		return l.done("")
	}
	r, err := signoff.Read(cfg.SignOff())
	switch {
	case err != nil:
		l.problem(review, "%v", err)
	case r.Policy != cfg.Policy:
		l.problem(review, "the sign-off is of %s, and the policy is %s", r.Policy, cfg.Policy)
	case r.Digest != signoff.Digest(policy):
		l.problem(review, "%s was changed after %s signed it off, on %s", cfg.Policy, r.By, day(r.At))
	}
	if policy != nil {
		for _, t := range policy.Tools {
			for _, s := range t.Secrets {
				if _, err := intercept.ReadSource(s); err != nil {
					l.problem("put the value there, in a file of root's with mode 600", "no agent with the tool %s can start: %v", t.Name, err)
				}
			}
		}
	}
	return l.done("%s, signed off by %s on %s", cfg.Policy, r.By, day(r.At))
}

func day(t time.Time) string { return t.Local().Format("2006-01-02 15:04") }

// audited is about the log: it is as it was written, and can be written.
func audited(cfg config.Config) Line {
	l := Line{Name: "audit"}
	log := audit.NewLog(audit.Options{Dir: cfg.Audit.Dir, MaxSize: int64(cfg.Audit.MaxSize), Keep: cfg.Audit.Keep})
	defer log.Close()
	// Written first, so that it is among what is verified, and the log has a record
	// of this boot.
	if err := log.Append(audit.NewRecord(time.Now(), audit.Identity{}, audit.Entry{
		Event: audit.LogFile, Object: &audit.Object{Action: audit.ActionChecked, Detail: "nanoclaw preflight"},
	})); err != nil {
		l.problem("make room for it, or mend its folder", "%v", err)
		return l.done("")
	}
	report, err := audit.Verify(cfg.Audit.Dir, audit.VerifyOptions{})
	if err != nil {
		l.problem("nanoclaw audit verify", "%v", err)
		return l.done("")
	}
	if !report.Intact() {
		l.problem("nanoclaw audit verify tells all; move the whole folder away as evidence, and find out who it was",
			"%s is not as it was written: %s", cfg.Audit.Dir, report.Problems[0])
	}
	if cfg.Audit.OnFull != config.OnFullStop {
		l.problem("audit.on_full: stop", "containers go on where what they do cannot be recorded (audit.on_full: %s)", cfg.Audit.OnFull)
	}
	return l.done("%s is intact, has %d records, and was written to just now", cfg.Audit.Dir, report.Records)
}

// volumes is about what of the host containers have, and what they could have.
func volumes(cfg config.Config, policy *annotations.File, policyErr error) Line {
	l := Line{Name: "volumes"}
	switch {
	case policyErr != nil:
		l.problem("nanoclaw policy check", "the ceiling is not known: %v", policyErr)
	case policy == nil || len(policy.CeilingSources()) == 0:
		l.problem("a ceiling with mounts.allow in "+cfg.Policy, "the policy has no list of the folders that containers may be given; whole /srv or /opt can be mounted")
	default:
		for _, list := range policy.CeilingSources() {
			for _, s := range list.Sources {
				if s.Source == "/" || s.Write && broad(s.Source) {
					l.problem("list the folders that are worked in", "the ceiling gives all of %s (%s:%d)", s.Source, cfg.Policy, annotations.LineOf(s.Origin))
				}
			}
		}
	}
	running, err := sandbox.List(cfg.RunDir)
	if err != nil {
		l.problem("", "not all containers could be looked at: %v", err)
	}
	mounts, err := mountsOf(cfg.Audit.Dir, running)
	if err != nil {
		l.problem("nanoclaw audit verify", "what containers have of the host is not known: %v", err)
	} else {
		for _, c := range running {
			given, known := mounts[c.ID]
			if !known {
				l.problem("start it again", "the audit log has no record of what the container %.12s was given", c.ID)
			}
			for _, m := range given {
				if broad(m.real) {
					l.problem("mount the folder that it works in", "the container %.12s has all of %s, %s", c.ID, m.real, m.access)
				}
			}
		}
	}
	return l.done("nothing broad in the ceiling, nor in what containers have; %d of them are running", len(running))
}

// broad reports whether a folder is more than a task needs: the root, a folder
// directly below it, or somebody's home.
func broad(folder string) bool {
	folder = filepath.Clean(folder)
	parent := filepath.Dir(folder)
	return parent == "/" || annotations.HomeParent(folder) || annotations.HomeParent(parent)
}

// given is one mount of a container's: what its source is, and "ro" or "rw".
type given struct{ real, access string }

// mountsOf returns what the containers were given, by what was recorded before
// each was created.
func mountsOf(dir string, containers []sandbox.Info) (map[string][]given, error) {
	all := map[string][]given{}
	if len(containers) == 0 {
		return all, nil
	}
	began := map[string]time.Time{}
	for _, c := range containers {
		began[c.ID] = c.Began
	}
	err := audit.Each(dir, func(r *audit.Record) error {
		if _, runs := began[r.Container]; !runs || r.Object == nil {
			return nil
		}
		switch {
		case r.Event == audit.Lifecycle && r.Object.Action == "create":
			if _, seen := all[r.Container]; !seen {
				all[r.Container] = nil
			}
		case r.Event == audit.Lifecycle && r.Object.Action == "delete":
			// That was an earlier one of this id.
			delete(all, r.Container)
		case r.Event == audit.Mount && r.Decision == audit.Allow:
			real := r.Object.Path
			if real == "" {
				real = r.Object.Source
			}
			all[r.Container] = append(all[r.Container], given{real, r.Object.Access})
		}
		return nil
	})
	return all, err
}

// Print writes the list for a person.
func (r *Report) Print(w io.Writer) error {
	var b strings.Builder
	for _, l := range r.Lines {
		mark := "ok"
		if !l.OK {
			mark = "MISSING"
		}
		fmt.Fprintln(&b, strings.TrimRight(fmt.Sprintf("%-8s %-13s %s", mark, l.Name, l.Found), " "))
		for _, p := range l.Problems {
			fmt.Fprintf(&b, "%-8s %-13s %s\n", "", "", strings.ReplaceAll(strings.TrimSpace(p.What), "\n", "\n"+strings.Repeat(" ", 23)))
			if p.Fix != "" {
				fmt.Fprintf(&b, "%-8s %-13s => %s\n", "", "", p.Fix)
			}
		}
	}
	conclusion := "Ready."
	if !r.OK {
		conclusion = "NOT READY."
	}
	_, err := io.WriteString(w, b.String()+"\n"+conclusion+"\n")
	return err
}
