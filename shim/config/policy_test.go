package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/annotations"
)

func TestLoadPolicy(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte("agents: [{name: a}]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := LoadPolicy(file)
	if err != nil || len(f.Agents) != 1 || f.Name != file {
		t.Fatalf("%+v, %v", f, err)
	}
}

func TestLoadPolicyRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		make func(path string) error
		want string
	}{
		"absent":            {func(string) error { return nil }, "is missing"},
		"a folder":          {func(p string) error { return os.Mkdir(p, 0o755) }, "not a regular file"},
		"a pipe":            {func(p string) error { return unix.Mkfifo(p, 0o600) }, "not a regular file"},
		"written by others": {func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o600), os.Chmod(p, 0o666)) }, "chmod go-w"},
		"too large":         {func(p string) error { return os.WriteFile(p, make([]byte, annotations.MaxFile+1), 0o600) }, "over"},
		"somebody else's": {func(p string) error {
			if os.Geteuid() != 0 {
				t.Skip("only root can give a file away")
			}
			return errors.Join(os.WriteFile(p, nil, 0o600), os.Chown(p, 12345, -1))
		}, "chown root"},
		"not YAML": {func(p string) error { return os.WriteFile(p, []byte("agents: {"), 0o600) }, "policy.yaml:2: it is not YAML"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "policy.yaml")
			if err := c.make(path); err != nil {
				t.Fatal(err)
			}
			if _, err := LoadPolicy(path); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestNoPolicyFileIsTheBaseline(t *testing.T) {
	if _, err := os.Stat(DefaultPolicy); err == nil {
		t.Skip("this host has a policy file")
	}
	if f, err := LoadPolicy(DefaultPolicy); f != nil || err != nil {
		t.Errorf("%+v, %v", f, err)
	}
}
