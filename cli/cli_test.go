package cli

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Run(context.Background(), args, Streams{In: strings.NewReader(""), Out: &out, Err: &errs})
	return code, out.String(), errs.String()
}

func TestUsage(t *testing.T) {
	for name, c := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		"nothing":       {nil, 0, "doctor", ""},
		"help":          {[]string{"--help"}, 0, "doctor", ""},
		"version":       {[]string{"--version"}, 0, "nanoclaw version ", ""},
		"no command":    {[]string{"doctr"}, exitUsage, "", `"doctr"`},
		"no flag":       {[]string{"doctor", "--jsn"}, exitUsage, "", "--jsn"},
		"no argument":   {[]string{"doctor", "x"}, exitUsage, "", "takes no arguments"},
		"not a problem": {[]string{"doctor", "--help"}, 0, "--json", ""},
	} {
		code, stdout, stderr := run(t, c.args...)
		if code != c.code || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) || (c.stderr == "") != (stderr == "") {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", name, code, stdout, stderr)
		}
	}
}

// Every subcommand is described, and reachable by its name.
func TestSubcommandsAreDescribed(t *testing.T) {
	for _, command := range subcommands {
		c := command()
		if c.Short == "" || c.RunE == nil && !c.HasSubCommands() {
			t.Errorf("%s has no description, or does nothing", c.Name())
		}
	}
}

func TestDoctorFailsWhereContainersCannotStart(t *testing.T) {
	wrong := t.TempDir() // a folder is no configuration
	code, stdout, stderr := run(t, "doctor", "--config", wrong, "--docker-config", wrong)
	if code != exitFailed || stderr != "" || !strings.Contains(stdout, "Containers cannot start") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	if code, stdout, _ := run(t, "doctor", "--json", "--config", wrong, "--docker-config", wrong); code != exitFailed || !strings.Contains(stdout, `"ready": false`) {
		t.Errorf("exit code %d, stdout %q", code, stdout)
	}
}
