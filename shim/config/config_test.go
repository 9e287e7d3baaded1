package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// defaults are what a file that says nothing leaves.
func defaults(file string) Config {
	c := Default()
	c.File = file
	return c
}

func TestLoad(t *testing.T) {
	path := write(t, "hypervisor: qemu\nallow_emulation: true\ndefault_memory: 512m\nboot_timeout: 90s\n")
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := defaults(path)
	want.Hypervisor, want.AllowEmulation = "qemu", true
	want.DefaultMemory, want.BootTimeout = 512<<20, Duration(90*time.Second)
	if c != want {
		t.Fatalf("got %+v, want %+v", c, want)
	}
	if file := c.Choice().File; file != path {
		t.Errorf("what is said of the choice names %s, not %s", file, path)
	}
}

func TestLoadEmptyFileIsDefault(t *testing.T) {
	for _, content := range []string{"", "\n", "# only a comment\n"} {
		path := write(t, content)
		if c, err := Load(path); err != nil || c != defaults(path) {
			t.Errorf("Load(%q) = %+v, %v; want the default", content, c, err)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	for content, part := range map[string]string{
		"hypervizor: qemu\n":                   "hypervizor",
		"hypervisor: xen\n":                    "none of auto",
		"kernel: vmlinux\n":                    "not an absolute path",
		"default_memory: 1m\n":                 "not within",
		"default_memory: much\n":               "not a size",
		"default_cpus: 65\n":                   "not within",
		"boot_timeout: 1h\n":                   "not within",
		"run_dir: /" + strings.Repeat("x", 60): "would not fit",
	} {
		if _, err := Load(write(t, content)); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("Load(%q) = %v, want an error with %q", content, err, part)
		}
	}
}

func TestLoadNamedFileMustExist(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "absent.yaml")); err == nil {
		t.Fatal("a named file that is absent was taken for the default")
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "17": 17, "1k": 1024, "3M": 3 << 20, "2g": 2 << 30, "1t": 1 << 40, "5b": 5} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "m", "-1", "1.5g", "9999999999t", "1x"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", in, got)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("hypervisor: auto\n"))
	f.Add([]byte("default_memory: [1]\n"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		c := Default()
		_ = decode(data, &c)
	})
}
