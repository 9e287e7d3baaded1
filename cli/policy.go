package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/annotations/check"
	"github.com/nanoclaw/nanoclaw/annotations/explain"
	"github.com/nanoclaw/nanoclaw/annotations/matrix"
	"github.com/nanoclaw/nanoclaw/cli/hostfile"
	"github.com/nanoclaw/nanoclaw/shim/config"
	"github.com/nanoclaw/nanoclaw/shim/intercept"
	"github.com/nanoclaw/nanoclaw/shim/sandbox"
)

func policyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "policy",
		Short: "Checks, explains and compares what containers may do",
		Long: `policy looks at the host's policy file and at what comes of it. None of its commands changes what
containers may do, or needs a container.`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(policyCheckCommand(), policyExplainCommand(), policyMatrixCommand(), policySignOffCommand())
	return c
}

func policyCheckCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Checks a policy file, runs its tests, and warns of what is too wide",
		Long: `check reports all errors of a policy file at once, each with its line, runs the tests that its agents
have, and warns of what is worth a second look: the same tools for every agent, tools that nobody has
or that cannot be used, wildcards, folders given for writing that are the root or directly below it.

Without FILE it is the file that the runtime uses, which must also belong to root. - is stdin. The
exit code is 1 where there is an error or a test fails; warnings do not count.`,
		Args: atMost(1),
		RunE: func(c *cobra.Command, args []string) error {
			report, err := checkPolicy(c, args)
			if err != nil || report == nil {
				return err
			}
			if asJSON {
				err = writeJSON(c.OutOrStdout(), report)
			} else {
				err = report.Write(c.OutOrStdout())
			}
			if err == nil && !report.OK() {
				err = exitError(exitFailed)
			}
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	return c
}

// checkPolicy returns no report where there is no file to check.
func checkPolicy(c *cobra.Command, args []string) (*check.Report, error) {
	if len(args) == 1 {
		data, err := readPolicy(c, args[0])
		if err != nil {
			return nil, err
		}
		return check.File(args[0], data, config.Enforced), nil
	}
	file, err := hostPolicyPath()
	if err != nil {
		return nil, err
	}
	f, loadErr := config.LoadPolicy(file)
	if f == nil && loadErr == nil {
		_, err := fmt.Fprintf(c.OutOrStdout(), "%s: there is no such file, so that every container has the baseline\n", file)
		return nil, err
	}
	var problems annotations.Problems
	if loadErr != nil && !errors.As(loadErr, &problems) {
		return nil, loadErr
	}
	data, err := readPolicy(c, file)
	if err != nil {
		return nil, err
	}
	return check.File(file, data, config.Enforced), nil
}

func policyExplainCommand() *cobra.Command {
	var asJSON bool
	var file string
	c := &cobra.Command{
		Use:   "explain [FLAGS] (CONTAINER | docker run --runtime=nanoclaw [DOCKER'S FLAGS] IMAGE [COMMAND])",
		Short: "Says what a container would be allowed: every rule, and where it came from",
		Long: `explain takes a command line that has not been run, and prints every rule of the policy that the
container would have, with the layer and the file, annotation or flag that it came from; how each of
its mounts would be shared; and what would be refused. It starts nothing. Of a container that runs, named
by its id or the beginning of it, it prints the rules that it started with.

The exit code is 1 where the container would be refused. Bind mounts of the host below other names
are only looked at when the container is started.`,
		Example: "  nanoclaw policy explain docker run --runtime=nanoclaw --annotation io.nanoclaw.agent=support-agent -v $PWD:/w busybox",
		RunE: func(c *cobra.Command, args []string) error {
			x, err := explained(c, args, file)
			if err != nil {
				return err
			}
			if asJSON {
				err = x.WriteJSON(c.OutOrStdout())
			} else {
				err = x.Write(c.OutOrStdout())
			}
			if err == nil && !x.OK() {
				err = exitError(exitFailed)
			}
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the explanation as JSON")
	c.Flags().StringVar(&file, "file", "", "the policy file (default: the one that the runtime uses)")
	// Behind the first word all flags are Docker's.
	c.Flags().SetInterspersed(false)
	return c
}

// explained explains what the arguments are: a container, or a command line.
func explained(c *cobra.Command, args []string, file string) (*explain.Explanation, error) {
	cfg, err := config.Load("")
	if err != nil {
		return nil, err
	}
	if len(args) == 1 && args[0] != "docker" {
		p, err := sandbox.Policy(cfg.RunDir, args[0])
		if err != nil {
			return nil, err
		}
		return explain.Running(p), nil
	}
	request, err := explain.Docker(args)
	if err != nil {
		return nil, usageError{err}
	}
	host, err := policyFile(c, file)
	if err != nil {
		return nil, err
	}
	in := explain.Input{
		Request: request, Host: host, Private: cfg.Private(), Enforced: config.Enforced, Resolve: hostfile.Resolve,
	}
	// Another file may be another host's, whose secrets are not here.
	if file == "" {
		in.Available = intercept.Available
	}
	return explain.New(in), nil
}

func policyMatrixCommand() *cobra.Command {
	var format, diff string
	c := &cobra.Command{
		Use:   "matrix [FILE]",
		Short: "Shows agents against tools, mounts and hosts as a table",
		Long: `matrix prints what each agent of a policy file has of all the tools, mounts and hosts that the file
names, with the ceiling taken into account.

With --diff=NEW it prints what NEW would change, and whether that is wider or narrower.`,
		Args: atMost(1),
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.Contains(matrix.Formats, matrix.Format(format)) {
				return usageError{fmt.Errorf("there is no format %q; known are text, markdown, csv and json", format)}
			}
			path := ""
			if len(args) == 1 {
				path = args[0]
			}
			m, err := policyMatrix(c, path)
			if err != nil {
				return err
			}
			if diff == "" {
				return m.Write(c.OutOrStdout(), matrix.Format(format))
			}
			after, err := policyMatrix(c, diff)
			if err != nil {
				return err
			}
			return matrix.WriteDiff(c.OutOrStdout(), matrix.Diff(m, after), matrix.Format(format))
		},
	}
	c.Flags().StringVar(&format, "format", string(matrix.Text), "text, markdown, csv or json")
	c.Flags().StringVar(&diff, "diff", "", "print what this policy file would change")
	return c
}

func policyMatrix(c *cobra.Command, path string) (*matrix.Matrix, error) {
	f, err := policyFile(c, path)
	if err != nil {
		return nil, err
	}
	if f == nil {
		f = &annotations.File{Name: config.DefaultPolicy}
	}
	return matrix.New(f)
}

// policyFile reads a policy file, or, where path is empty, the one that the
// runtime uses: nil if there is none.
func policyFile(c *cobra.Command, path string) (*annotations.File, error) {
	if path == "" {
		file, err := hostPolicyPath()
		if err != nil {
			return nil, err
		}
		return config.LoadPolicy(file)
	}
	data, err := readPolicy(c, path)
	if err != nil {
		return nil, err
	}
	return annotations.ParseFile(path, data)
}

func hostPolicyPath() (string, error) {
	cfg, err := config.Load("")
	return cfg.Policy, err
}

// readPolicy reads a file of bounded size; - is the command's input.
func readPolicy(c *cobra.Command, path string) ([]byte, error) {
	in := c.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read the policy file: %w", err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	var b bytes.Buffer
	if _, err := io.Copy(&b, io.LimitReader(in, annotations.MaxFile+1)); err != nil {
		return nil, fmt.Errorf("read the policy file %s: %w", path, err)
	}
	return b.Bytes(), nil
}
