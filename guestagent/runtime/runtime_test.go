package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestExplain(t *testing.T) {
	for message, want := range map[string]string{
		"executable file `nothere` not found in $PATH: No such file or directory":            `exec: "nothere": executable file not found in $PATH`,
		"executable file `/nothere` not found: No such file or directory":                    `exec: "/nothere": no such file or directory`,
		"the path `/etc` is not a regular file: Operation not permitted":                     `exec: "/etc": is a directory`,
		"the path `/etc/passwd` exists but it is not executable: Operation not permitted":    `exec: "/etc/passwd": permission denied`,
		"open `/etc/passwd/x`: Not a directory":                                              "crun: open `/etc/passwd/x`: Not a directory",
		"the path `/etc` is not a regular file: Operation not permitted (not 127: no words)": `is a directory or no regular file: permission denied`,
	} {
		got := explain(message).Error()
		if !strings.Contains(got, want) || !strings.Contains(got, message) {
			t.Errorf("explain(%q) = %q, which lacks %q", message, got, want)
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
			_ = explain(m).Error()
		}
	})
}
