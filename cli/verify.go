package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nanoclaw/nanoclaw/cli/doctor"
	"github.com/nanoclaw/nanoclaw/cli/verify"
)

// exitUnnoticed says that verify's own checks are not to be relied on.
const exitUnnoticed = 3

func verifyCommand() *cobra.Command {
	host := doctor.ThisHost()
	var o verify.Options
	var brk string
	var asJSON bool
	var names []string
	for _, c := range verify.Checks {
		names = append(names, string(c))
	}
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Checks live, with containers of its own, that they are isolated",
		Long: `verify starts an engine of its own beside the host's, with this host's dockerd,
containerd, shim, hypervisor, kernel and guest image, and in it four containers, each in a VM. It
tries what must not work, ends them in four ways, and judges from the host what could be seen and
what is left. The host's policy, containers and audit log are not touched.

It needs root, and takes about a minute. The exit code is 1 where a check failed.

--break takes the control that a check is about out of this one run, to show that the check is able
to fail. The exit code is 1 where that check and no other failed, and 3 otherwise.`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if brk != "" {
				if o.Break, err = verify.ParseCheck(brk); err != nil {
					return usageError{err}
				}
			}
			shim, registered, err := doctor.Registered(host.DaemonJSON)
			if err != nil {
				return err
			}
			o.Shim = shim
			if o.Config == "" {
				o.Config = registered
			}
			o.Progress = func(format string, args ...any) {
				// Nothing depends on whether somebody can read it.
				_, _ = fmt.Fprintf(c.ErrOrStderr(), "nanoclaw: "+format+"\n", args...)
			}
			report, err := verify.Run(c.Context(), o)
			if report == nil {
				return err
			}
			// What was found is told, also where not all could be cleaned up.
			var printed error
			if asJSON {
				printed = writeJSON(c.OutOrStdout(), report)
			} else {
				printed = report.Print(c.OutOrStdout())
			}
			switch {
			case err != nil:
				return err
			case printed != nil:
				return printed
			case report.Broken != "" && !report.Noticed:
				return exitError(exitUnnoticed)
			case !report.OK:
				return exitError(exitFailed)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Image, "image", "busybox", "an image that this host's Docker has")
	flags.StringVar(&brk, "break", "", "take the control of one check out of this run: "+strings.Join(names, ", "))
	flags.StringVar(&o.Dir, "dir", verify.DefaultDir, "the folder of the scratch engine; its name must be that")
	flags.BoolVar(&asJSON, "json", false, "print the report as JSON")
	flags.StringVar(&o.Config, "config", "", "the runtime's configuration (default: the one that Docker's names, or "+doctor.DefaultConfig+")")
	flags.StringVar(&host.DaemonJSON, "docker-config", host.DaemonJSON, "Docker's configuration")
	return cmd
}
