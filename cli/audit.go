package cli

import (
	"github.com/spf13/cobra"

	"github.com/nanoclaw/nanoclaw/shim/config"
)

// auditFlags say which log is meant.
type auditFlags struct {
	config, dir string
}

func auditCommand() *cobra.Command {
	var f auditFlags
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Reads and verifies the record of what containers did",
		Args:  noArguments,
	}
	f.add(cmd.PersistentFlags())
	cmd.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	cmd.AddCommand(auditShowCommand(&f), auditFollowCommand(&f), auditVerifyCommand(&f))
	return cmd
}

// stringFlags is a command's own flags, or those of its subcommands too.
type stringFlags interface {
	StringVar(p *string, name, value, usage string)
}

func (f *auditFlags) add(flags stringFlags) {
	flags.StringVar(&f.config, "config", "", "configuration file (default "+config.DefaultPath+")")
	flags.StringVar(&f.dir, "dir", "", "the log's folder (default: audit.dir of the configuration)")
}

// folder is the folder of the log that is meant.
func (f *auditFlags) folder() (string, error) {
	if f.dir != "" {
		return f.dir, nil
	}
	cfg, err := config.Load(f.config)
	return cfg.Audit.Dir, err
}
