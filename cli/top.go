package cli

import (
	"github.com/spf13/cobra"

	"github.com/nanoclaw/nanoclaw/cli/engine"
	"github.com/nanoclaw/nanoclaw/cli/top"
	"github.com/nanoclaw/nanoclaw/shim/config"
	"github.com/nanoclaw/nanoclaw/shim/sandbox"
)

func topCommand() *cobra.Command {
	var configPath string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "top CONTAINER",
		Short: "Shows the processes of a container in a micro-VM",
		Long: `top shows a container's own processes, as the container sees them. "docker top" runs ps on the host,
where there is only the VM.

CONTAINER is the beginning of its id, or its name. It needs root.`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := config.Load(configPath)
			if err != nil {
				return err
			}
			// One that cannot be read is not the one that is meant.
			all, _ := sandbox.List(cfg.RunDir)
			container, err := top.Find(all, args[0], func(name string) (string, error) {
				return engine.ContainerID(cmd.Context(), engine.Here(), name)
			})
			if err != nil {
				return err
			}
			list, err := top.Ask(cmd.Context(), container)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), list)
			}
			return list.Write(cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&configPath, "config", "", "configuration file (default "+config.DefaultPath+")")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
