package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/nanoclaw/nanoclaw/shim/audit"
)

// recordFlags say which records are wanted, and how.
type recordFlags struct {
	container, agent, since string
	events                  []string
	violations, json        bool
}

func (f *recordFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.container, "container", "", "only this container: its id or the beginning of it")
	flags.StringVar(&f.agent, "agent", "", "only this agent")
	flags.StringSliceVar(&f.events, "event", nil, "only these events, such as exec,mount,boundary")
	flags.BoolVar(&f.violations, "violations", false, "only what a container was not allowed to do")
	flags.BoolVar(&f.json, "json", false, "the lines of the log as they are")
}

func (f *recordFlags) filter(now time.Time) (audit.Filter, error) {
	events, err := audit.ParseEvents(f.events)
	filter := audit.Filter{Container: f.container, Agent: f.agent, Events: events, Violations: f.violations}
	if err == nil && f.since != "" {
		filter.Since, err = audit.ParseSince(f.since, now)
	}
	if err != nil {
		return filter, usageError{err}
	}
	return filter, nil
}

// wanted is the folder of the log that is meant, and which of its records.
func wanted(a *auditFlags, f *recordFlags) (dir string, filter audit.Filter, err error) {
	if dir, err = a.folder(); err == nil {
		filter, err = f.filter(time.Now())
	}
	return dir, filter, err
}

// printer returns a function that writes the records that are wanted.
func (f *recordFlags) printer(w io.Writer, filter audit.Filter) (func(*audit.Record) error, error) {
	if !f.json {
		if _, err := fmt.Fprintln(w, audit.Header()); err != nil {
			return nil, err
		}
	}
	return func(r *audit.Record) error {
		if !filter.Match(r) {
			return nil
		}
		line := r.Line()
		if f.json {
			line = string(r.JSON())
		}
		_, err := fmt.Fprintln(w, line)
		return err
	}, nil
}

func auditShowCommand(a *auditFlags) *cobra.Command {
	var f recordFlags
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "Prints the records, oldest first",
		Example: "  nanoclaw audit show --container 3f5a --since 1h\n  nanoclaw audit show --violations --json",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, filter, err := wanted(a, &f)
			if err != nil {
				return err
			}
			w := bufio.NewWriter(cmd.OutOrStdout())
			printRecord, err := f.printer(w, filter)
			if err != nil {
				return err
			}
			return errors.Join(audit.Each(dir, printRecord), w.Flush())
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.since, "since", "", "only what is newer: 90s, 24h, 2026-01-31, \"2026-01-31 12:00:00\"")
	return cmd
}
