package cli

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/nanoclaw/nanoclaw/shim/config"
	"github.com/nanoclaw/nanoclaw/shim/inventory"
)

func psCommand() *cobra.Command {
	var configPath string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "Lists the containers that run in micro-VMs",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(configPath)
			if err != nil {
				return err
			}
			// What could be found is printed, whatever could not.
			containers, err := inventory.List(cfg)
			if asJSON {
				if containers == nil {
					containers = []inventory.Container{}
				}
				return errors.Join(writeJSON(cmd.OutOrStdout(), containers), err)
			}
			return errors.Join(inventory.Write(cmd.OutOrStdout(), containers, time.Now()), err)
		},
	}
	cmd.Flags().StringVar(&configPath, "config", "", "configuration file (default "+config.DefaultPath+")")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
