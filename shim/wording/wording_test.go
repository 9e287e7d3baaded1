package wording

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// docker is what Docker's daemon and client look for, the daemon in lower case.
var docker = []string{
	"executable file not found", "no such file or directory", "system cannot find the file specified",
	syscall.EACCES.Error(), syscall.EISDIR.Error(), syscall.ENOTDIR.Error(),
}

func suspicious(message string) string {
	for _, phrase := range docker {
		if strings.Contains(strings.ToLower(message), phrase) {
			return phrase
		}
	}
	return ""
}

func TestPlain(t *testing.T) {
	for message, want := range map[string]string{
		"open /x: no such file or directory":                 "open /x: it does not exist",
		"Error: No such file or directory (os error 2)":      "Error: it does not exist (os error 2)",
		"exec: \"x\": executable file not found in $PATH":    "exec: \"x\": program not found in $PATH",
		"The system cannot find the file specified.":         "it does not exist.",
		"open /dev/kvm: permission denied":                   "open /dev/kvm: access is denied",
		"read /: is a directory; open /a/b: not a directory": "read /: is a folder; open /a/b: not a folder",
		"all is well": "all is well",
	} {
		if got := Plain(message); got != want {
			t.Errorf("Plain(%q) = %q, want %q", message, got, want)
		}
	}
	for _, phrase := range docker {
		if got := Plain("a " + strings.ToUpper(phrase) + " b"); suspicious(got) != "" {
			t.Errorf("%q is left as %q", phrase, got)
		}
	}
}

func TestError(t *testing.T) {
	_, err := os.Open("/no/such/file")
	if got := Error(fmt.Errorf("read it: %w", err)); suspicious(got.Error()) != "" || errors.Is(got, os.ErrNotExist) {
		t.Errorf("got %v", got)
	}
	if Error(nil) != nil {
		t.Error("nothing became an error")
	}
}

func FuzzPlain(f *testing.F) {
	f.Add("no such file or directory")
	f.Add("is a is a directorydirectory")
	f.Add("permission perMission deNied denied")
	f.Fuzz(func(t *testing.T, message string) {
		if got := Plain(message); suspicious(got) != "" {
			t.Errorf("%q became %q", message, got)
		}
	})
}
