package e2e

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// runtimes are compared with each other, the first being what is right.
var runtimes = []string{"runc", "nanoclaw"}

// TestFeatures runs each script of testdata/feature with both runtimes on the
// same engine. What it does with the Docker client must have the same outcome:
// exit code, stdout, stderr. A script that declares a difference with "differs"
// gives its reason, and fails when there is none.
func TestFeatures(t *testing.T) {
	enter := engine(t)
	t.Run("parallel", func(t *testing.T) {
		for _, script := range scripts(t, "feature") {
			t.Run(scriptName(script), func(t *testing.T) {
				t.Parallel()
				compare(t, enter, script)
			})
		}
	})
	for _, script := range scripts(t, "feature-alone") {
		t.Run("alone/"+scriptName(script), func(t *testing.T) { compare(t, enter, script) })
	}
}

func scripts(t *testing.T, folder string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join("testdata", folder, "*.txtar"))
	if err != nil || len(list) == 0 {
		t.Fatalf("no scripts in testdata/%s: %v", folder, err)
	}
	return list
}

func scriptName(file string) string { return strings.TrimSuffix(filepath.Base(file), ".txtar") }

func compare(t *testing.T, enter, script string) {
	t.Helper()
	dir := t.TempDir()
	for _, runtime := range runtimes {
		ok := t.Run(runtime, func(t *testing.T) {
			p := params(enter, runtime, filepath.Join(dir, runtime))
			p.Files = []string{script}
			testscript.Run(t, p)
		})
		if !ok {
			return
		}
	}
	want, got := readTranscript(t, filepath.Join(dir, runtimes[0])), readTranscript(t, filepath.Join(dir, runtimes[1]))
	if len(want) != len(got) {
		t.Fatalf("%d commands with %s, %d with %s", len(want), runtimes[0], len(got), runtimes[1])
	}
	for i := range want {
		if fault := want[i].against(got[i]); fault != "" {
			t.Error(fault)
		}
	}
}

// outcome is what one command of a script did.
type outcome struct {
	Args           []string
	Code           int
	Stdout, Stderr string
	// Differs and Varies are the reasons for which the outcome is another with
	// another runtime, or another every time.
	Differs, Varies string
}

// against returns what is wrong with other, the outcome of the same command with
// the other runtime.
func (o outcome) against(other outcome) string {
	same := o.Code == other.Code && o.Stdout == other.Stdout && o.Stderr == other.Stderr
	command := strings.Join(o.Args, " ")
	switch {
	case o.Varies != "" || same == (o.Differs == ""):
		return ""
	case same:
		return fmt.Sprintf("%s\nhas the same outcome with both runtimes, where a difference was declared: %s", command, o.Differs)
	}
	return fmt.Sprintf("%s\n%s: %s\n%s: %s", command, runtimes[0], o, runtimes[1], other)
}

func (o outcome) String() string {
	return fmt.Sprintf("exit code %d\n  stdout %q\n  stderr %q", o.Code, o.Stdout, o.Stderr)
}

func readTranscript(t *testing.T, file string) []outcome {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var list []outcome
	for line := range strings.Lines(string(data)) {
		var o outcome
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatal(err)
		}
		list = append(list, o)
	}
	return list
}

// TestTable checks that docs/compatibility.md and the scripts are about the same
// things: each line of its tables has a script of that name and each feature's
// script a line; a line that says "no", or that names a difference, says why, and
// its script declares one.
func TestTable(t *testing.T) {
	page, err := os.ReadFile("../../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	err = filepath.WalkDir("testdata", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found[scriptName(path)] = path
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		name, isScript := strings.CutPrefix(strings.TrimSpace(cells[0]), "`")
		if len(cells) != 4 || !isScript {
			continue
		}
		name, _, _ = strings.Cut(name, "`")
		script := found[name]
		if script == "" || told[name] {
			t.Errorf("%s: no script of this name, or a second line", name)
			continue
		}
		told[name] = true
		text, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		declared := strings.Contains(string(text), "differs ") || strings.Contains(string(text), "[nanoclaw]")
		compared := strings.HasPrefix(script, filepath.Join("testdata", "feature"))
		differs := strings.TrimSpace(cells[1]) != strings.TrimSpace(cells[2])
		if differs && strings.TrimSpace(cells[3]) == "" {
			t.Errorf("%s: the line differs and does not say why", name)
		}
		if compared && differs != declared {
			t.Errorf("%s: the line differs: %t; its script declares a difference: %t", name, differs, declared)
		}
	}
	for name, path := range found {
		if strings.HasPrefix(path, filepath.Join("testdata", "feature")) && !told[name] {
			t.Errorf("%s has no line in docs/compatibility.md", path)
		}
	}
}
