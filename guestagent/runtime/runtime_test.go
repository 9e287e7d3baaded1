package runtime

import (
	"os"
	"path/filepath"
	"testing"
)

func TestExplain(t *testing.T) {
	const (
		create = "OCI runtime create failed: crun create failed: "
		run    = create + "unable to start container process: error during container init: "
		exec   = "OCI runtime exec failed: exec failed: "
		start  = exec + "unable to start container process: "
	)
	for _, c := range []struct{ operation, message, want string }{
		{"create", "executable file `nothere` not found in $PATH: No such file or directory", run + `exec: "nothere": executable file not found in $PATH`},
		{"exec", "executable file `nothere` not found in $PATH: No such file or directory", start + `exec: "nothere": executable file not found in $PATH`},
		{"exec", "executable file `/nothere` not found: No such file or directory", start + `exec: "/nothere": stat /nothere: no such file or directory`},
		{"exec", "cannot find `` in $PATH: No such file or directory", start + `exec: "": executable file not found in $PATH`},
		{"exec", "the path `/etc` is not a regular file: Operation not permitted", start + `exec: "/etc": is a directory: permission denied`},
		{"exec", "the path `/etc/passwd` exists but it is not executable: Operation not permitted", start + `exec: "/etc/passwd": permission denied`},
		{"exec", "chdir to `/none`: No such file or directory", start + `chdir to cwd ("/none") set in config.json failed: no such file or directory`},
		{"create", "open `/etc/passwd/x`: Not a directory", create + "open `/etc/passwd/x`: Not a directory"},
		{"exec", "something else\n", exec + "something else"},
		{"pause", "the freezer is cold", "OCI runtime pause failed: crun: the freezer is cold"},
	} {
		if got := explain(c.operation, c.message).Error(); got != c.want {
			t.Errorf("explain(%q, %q)\n gave %q\n want %q", c.operation, c.message, got, c.want)
		}
	}
}

func TestParseLog(t *testing.T) {
	for in, want := range map[string]string{
		"":           "",
		"not json\n": "",
		`{"msg":"one","level":"error"}` + "\n" + `{"msg":"two","level":"error"}`:               "two",
		"{\n  \"msg\": \"spread\",\n  \"level\": \"error\"\n}\n":                               "spread",
		`{"msg":"real","level":"error"}` + "\n" + `{"msg":"only a warning","level":"warning"}`: "real",
	} {
		if got := parseLog([]byte(in)); got != want {
			t.Errorf("parseLog(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestReadPID(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	for in, want := range map[string]int{"77": 77, "77\n": 77, "1": 0, "0": 0, "-5": 0, "x": 0, "": 0} {
		if err := os.WriteFile(file, []byte(in), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readPID(file)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("readPID of %q = %d, %v", in, got, err)
		}
	}
}

func FuzzParseLog(f *testing.F) {
	f.Add([]byte(`{"msg":"one","level":"error"}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		if m := parseLog(in); m != "" {
			_ = explain("exec", m).Error()
		}
	})
}
