package cli

import (
	"github.com/spf13/cobra"

	"github.com/nanoclaw/nanoclaw/shim/audit"
)

func auditVerifyCommand(a *auditFlags) *cobra.Command {
	var expect string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Finds any changed, removed or reordered line",
		Long: `Verify follows the chain of hashes through all files of the log. It fails where
a line was changed, removed, added or reordered.

Root of this host could write the whole chain anew. Keep the last record's place,
which this command prints, somewhere else, and give it to --expect later.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := a.folder()
			if err != nil {
				return err
			}
			var o audit.VerifyOptions
			if expect != "" {
				p, err := audit.ParsePlace(expect)
				if err != nil {
					return usageError{err}
				}
				o.Expect = &p
			}
			report, err := audit.Verify(dir, o)
			if err != nil {
				return err
			}
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), report)
			} else {
				err = report.Write(cmd.OutOrStdout(), dir)
			}
			if err == nil && !report.Intact() {
				err = exitError(exitFailed)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&expect, "expect", "", "NUMBER:HASH of a record that must be in the log")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	return cmd
}
