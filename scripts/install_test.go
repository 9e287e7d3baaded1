// Package scripts holds the tests of the scripts beside it and no code.
package scripts

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/nanoclaw/nanoclaw/shim/config"
)

// install runs the script below a folder, with daemonJSON there unless empty.
func install(t *testing.T, root, daemonJSON string) (output string, err error) {
	t.Helper()
	for _, part := range []string{"bin/containerd-shim-nanoclaw-v2", "guest/vmlinux", "guest/guest.img"} {
		if _, err := os.Stat(filepath.Join("../out", part)); err != nil {
			t.Skipf("run 'make guest' first: %v", err)
		}
	}
	if daemonJSON != "" {
		write(t, daemonFile(root), daemonJSON)
	}
	cmd := exec.Command("./install")
	cmd.Env = append(os.Environ(), "DESTDIR="+root)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func daemonFile(root string) string { return filepath.Join(root, "etc/docker/daemon.json") }

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestInstallMerges(t *testing.T) {
	const ours = `"nanoclaw": {"runtimeType": "/usr/local/bin/containerd-shim-nanoclaw-v2"}`
	for name, c := range map[string]struct{ before, after string }{
		"no file":        {"", `{"runtimes": {` + ours + `}}`},
		"empty file":     {" \n", `{"runtimes": {` + ours + `}}`},
		"other keys":     {`{"data-root": "/srv/döcker", "features": {"x": true}}`, `{"data-root": "/srv/döcker", "features": {"x": true}, "runtimes": {` + ours + `}}`},
		"other runtimes": {`{"runtimes": {"kata": {"runtimeType": "k"}}}`, `{"runtimes": {"kata": {"runtimeType": "k"}, ` + ours + `}}`},
		"there already":  {`{"runtimes": {` + ours + `}}`, `{"runtimes": {` + ours + `}}`},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			// The second time nothing may change any more.
			for range 2 {
				if out, err := install(t, root, c.before); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				c.before = ""
				var got, want any
				if err := json.Unmarshal([]byte(read(t, daemonFile(root))), &got); err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal([]byte(c.after), &want); err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("got %v, want %v", got, want)
				}
			}
		})
	}
}

func TestInstallLeavesWhatItCannotMerge(t *testing.T) {
	for name, before := range map[string]string{
		"not JSON":      `{"a":`,
		"not an object": `[]`,
		"bad runtimes":  `{"runtimes": []}`,
		"name taken":    `{"runtimes": {"nanoclaw": {"path": "/x"}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			out, err := install(t, root, before)
			if err == nil || !strings.Contains(out, daemonFile(root)) {
				t.Errorf("no error that names the file: %v\n%s", err, out)
			}
			if after := read(t, daemonFile(root)); after != before {
				t.Errorf("the file became %q", after)
			}
			if left, _ := filepath.Glob(daemonFile(root) + "?*"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestInstallKeepsBackupModeAndLink(t *testing.T) {
	root := t.TempDir()
	const before = `{"log-level": "warn"}`
	elsewhere := filepath.Join(root, "srv/daemon.json")
	write(t, elsewhere, before)
	write(t, filepath.Join(root, "etc/docker/key.json"), "")
	if err := os.Symlink(elsewhere, daemonFile(root)); err != nil {
		t.Fatal(err)
	}
	if out, err := install(t, root, ""); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if info, err := os.Lstat(daemonFile(root)); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v, %v", info, err)
	}
	if info, err := os.Stat(elsewhere); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode changed: %v, %v", info, err)
	}
	if got := read(t, elsewhere+".before-nanoclaw"); got != before {
		t.Errorf("the backup holds %q", got)
	}
}

func TestInstallWritesConfigurationOnce(t *testing.T) {
	root := t.TempDir()
	if out, err := install(t, root, ""); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	file := filepath.Join(root, "etc/nanoclaw/config.yaml")
	got, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	// The file says that its values are the defaults.
	want := config.Default()
	want.File = file
	if got != want {
		t.Errorf("got %+v, want the defaults %+v", got, want)
	}
	const mine = "hypervisor: qemu\n"
	write(t, file, mine)
	if out, err := install(t, root, ""); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if after := read(t, file); after != mine {
		t.Errorf("the owner's file became %q", after)
	}
}
