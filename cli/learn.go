package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nanoclaw/nanoclaw/cli/learn"
	"github.com/nanoclaw/nanoclaw/shim/audit"
)

func learnCommand() *cobra.Command {
	var a auditFlags
	var f recordFlags
	var name string
	cmd := &cobra.Command{
		Use:   "learn",
		Short: "Writes the narrowest agent that allows what a container was seen to do",
		Long: `learn reads the audit log's records of a container, or of an agent's containers, and prints the
narrowest entry for the agents of a policy file that would have allowed what is on record. Run the
agent with "mode: audit" for a while: what would have been denied is recorded, and learned.

Look at the entry before it is used. What the container did not do is not in it; what it was talked
into doing is.`,
		Example: "  nanoclaw learn --container 3f5a --name sales-agent\n  nanoclaw learn --agent sales-agent --since 168h",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.container == "" && f.agent == "" {
				return usageError{errors.New("learn needs --container or --agent: what belongs to different containers makes no narrow entry")}
			}
			dir, filter, err := wanted(&a, &f)
			if err != nil {
				return err
			}
			var entry learn.Entry
			if err := audit.Each(dir, func(r *audit.Record) error {
				if r.Container != "" && filter.Match(r) {
					entry.Add(r)
				}
				return nil
			}); err != nil {
				return err
			}
			if entry.Records() == 0 {
				return fmt.Errorf("there is no record of that in %s", dir)
			}
			if name == "" {
				name = entry.Agent()
			}
			if name == "" {
				name = "learned"
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), entry.YAML(name))
			return err
		},
	}
	a.add(cmd.Flags())
	flags := cmd.Flags()
	flags.StringVar(&f.container, "container", "", "the container: its id or the beginning of it")
	flags.StringVar(&f.agent, "agent", "", "the containers of this agent")
	flags.StringVar(&f.since, "since", "", "only what is newer: 24h, 2026-01-31")
	flags.StringVar(&name, "name", "", "the entry's name (default: the agent's)")
	return cmd
}
