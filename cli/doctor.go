package cli

import (
	"github.com/spf13/cobra"

	"github.com/nanoclaw/nanoclaw/cli/doctor"
)

func doctorCommand() *cobra.Command {
	host := doctor.ThisHost()
	var asJSON bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Tells whether containers can start on this host, how isolated they are, and what to do",
		Long: `doctor looks at everything that a container in a micro-VM needs: which hypervisor works here (for
that it boots a guest, once in the host's uptime), programs and their versions, the guest's kernel
and image, the kernel's network features, and whether Docker knows the runtime.

It changes nothing. It needs root. The exit code is 0 where containers can start, also if only by
emulation, and 1 where they cannot.`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			report := host.Examine(c.Context())
			if err := c.Context().Err(); err != nil {
				return err
			}
			var err error
			if asJSON {
				err = writeJSON(c.OutOrStdout(), report)
			} else {
				err = report.Print(c.OutOrStdout())
			}
			if err != nil {
				return err
			}
			if !report.Ready {
				return exitError(exitFailed)
			}
			return nil
		},
	}
	flags := c.Flags()
	flags.BoolVar(&asJSON, "json", false, "print the report as JSON")
	flags.BoolVar(&host.Again, "again", false, "boot the trial guests anew, whatever was found earlier")
	flags.StringVar(&host.Config, "config", "", "the runtime's configuration (default: the one that Docker's names, or "+doctor.DefaultConfig+")")
	flags.StringVar(&host.DaemonJSON, "docker-config", host.DaemonJSON, "Docker's configuration")
	return c
}
