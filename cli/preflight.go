package cli

import (
	"github.com/spf13/cobra"

	"github.com/nanoclaw/nanoclaw/cli/doctor"
	"github.com/nanoclaw/nanoclaw/cli/preflight"
)

func preflightCommand() *cobra.Command {
	host := doctor.ThisHost()
	var o preflight.Options
	var asJSON bool
	c := &cobra.Command{
		Use:   "preflight",
		Short: "Goes through the list before this host runs agents",
		Long: `preflight goes through five lines: the engine is healthy; the runtime is installed rightly on this
host; the policy was reviewed and signed off as it is now; the audit log is on, whole, and can be
written; and no container has, or could be given, a broad part of this host.

It needs root. It starts no container, and writes one record into the audit log. The exit code is 1
where a line is missing.`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			if host.Config == "" {
				_, registered, err := doctor.Registered(host.DaemonJSON)
				if err != nil {
					return err
				}
				host.Config = registered
			}
			o.Config = host.Config
			found := host.Examine(c.Context())
			if err := c.Context().Err(); err != nil {
				return err
			}
			report := preflight.Examine(found, o)
			var err error
			if asJSON {
				err = writeJSON(c.OutOrStdout(), report)
			} else {
				err = report.Print(c.OutOrStdout())
			}
			if err == nil && !report.OK {
				err = exitError(exitFailed)
			}
			return err
		},
	}
	flags := c.Flags()
	flags.BoolVar(&asJSON, "json", false, "print the report as JSON")
	flags.BoolVar(&o.Emulation, "allow-emulation", false, "accept a host that isolates nothing, for development")
	flags.StringVar(&host.Config, "config", "", "the runtime's configuration (default: the one that Docker's names, or "+doctor.DefaultConfig+")")
	flags.StringVar(&host.DaemonJSON, "docker-config", host.DaemonJSON, "Docker's configuration")
	return c
}
