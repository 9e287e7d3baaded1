package cli

import (
	"github.com/spf13/cobra"

	"github.com/nanoclaw/nanoclaw/shim/audit"
)

func auditFollowCommand(a *auditFlags) *cobra.Command {
	var f recordFlags
	var last int
	cmd := &cobra.Command{
		Use:   "follow",
		Short: "Prints the last records and each new one, across rotations",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, filter, err := wanted(a, &f)
			if err != nil {
				return err
			}
			printRecord, err := f.printer(cmd.OutOrStdout(), filter)
			if err != nil {
				return err
			}
			return audit.Follow(cmd.Context(), dir, last, printRecord)
		},
	}
	f.add(cmd)
	cmd.Flags().IntVarP(&last, "last", "n", 10, "look for wanted records among so many last ones first")
	return cmd
}
