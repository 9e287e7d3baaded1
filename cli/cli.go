// Package cli is the operator's command, nanoclaw: one file for each subcommand,
// which reads flags, calls the package that does the work, and prints.
//
// A subcommand is a function that returns a cobra.Command, and a line in
// subcommands. It returns an error, for which Run finds an exit code; it never
// ends the program, and it reads and writes the command's own streams.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/nanoclaw/nanoclaw/internal/version"
)

// Streams are where a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// subcommands are nanoclaw's, in the order of its help.
var subcommands = []func() *cobra.Command{
	doctorCommand,
	verifyCommand,
	preflightCommand,
	psCommand,
	topCommand,
	auditCommand,
	learnCommand,
	policyCommand,
}

// The exit codes that every subcommand has. Others are an exitError's.
const (
	exitFailed = 1
	exitUsage  = 2
)

// exitError ends the command with a code and without a further message: what
// there is to say has been printed.
type exitError int

// Error is part of error.
func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// usageError is a mistake in the command line.
type usageError struct{ error }

// Run runs the command with these arguments and returns its exit code. An
// interrupt or SIGTERM ends ctx.
func Run(ctx context.Context, args []string, s Streams) int {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	root := rootCommand()
	root.SetArgs(args)
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	err := root.ExecuteContext(ctx)
	var code exitError
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	}
	// Nothing can be done where even this cannot be written.
	_, _ = fmt.Fprintln(s.Err, "nanoclaw:", err)
	if errors.As(err, &usage) {
		_, _ = fmt.Fprintln(s.Err, "nanoclaw --help tells what there is")
		return exitUsage
	}
	return exitFailed
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "nanoclaw COMMAND",
		Short:         "Looks after a host whose containers run in micro-VMs",
		Long:          "nanoclaw looks after a host whose containers run in micro-VMs.\nContainers are started with Docker: docker run --runtime=nanoclaw IMAGE",
		Version:       version.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return usageError{fmt.Errorf("there is no command %q", args[0])}
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	for _, command := range subcommands {
		root.AddCommand(command())
	}
	return root
}

// atMost is the Args of a command that takes up to n.
func atMost(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) > n {
			return usageError{fmt.Errorf("%s takes at most %d argument, and was given %q", c.CommandPath(), n, args)}
		}
		return nil
	}
}

// exactly is the Args of a command that takes n.
func exactly(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return usageError{fmt.Errorf("%s takes %d argument, and was given %q", c.CommandPath(), n, args)}
		}
		return nil
	}
}

// writeJSON writes v for a program.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// noArguments is the Args of a command that takes none.
func noArguments(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes no arguments, and was given %q", c.CommandPath(), args)}
	}
	return nil
}
