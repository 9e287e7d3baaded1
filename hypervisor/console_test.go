package hypervisor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConsoleTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	if got := ConsoleTail(path, ConsoleShown); got != "" {
		t.Errorf("of no file: %q", got)
	}
	for text, want := range map[string]string{
		"":                                  "",
		"\x1b[2Jbooting\r\n":                "[2Jbooting",
		strings.Repeat("x", 5000) + "\nend": strings.Repeat("x", ConsoleShown-4) + "\nend",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := ConsoleTail(path, ConsoleShown); got != want {
			t.Errorf("of %d bytes: %.40q, %d bytes", len(text), got, len(got))
		}
	}
}
