package runtime

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// missing matches crun's words for a program that is not there. They differ
// with the version and with how the program was named.
var missing = regexp.MustCompile("executable file [`'\"]?([^`'\"]*)[`'\"]? not found in \\$PATH")

// explain returns the error for a message of crun's. Docker tells a program
// that does not exist (127) from one that cannot be run (126) by the phrases of
// runc, so those are added where crun's differ.
func explain(message string) error {
	message = strings.TrimSpace(message)
	if m := missing.FindStringSubmatch(message); m != nil {
		return fmt.Errorf("exec: %q: executable file not found in $PATH (crun: %s)", m[1], message)
	}
	lower := strings.ToLower(message)
	for _, phrase := range []string{"permission denied", "is a directory", "not a directory", "no such file or directory"} {
		if strings.Contains(lower, phrase) {
			if strings.Contains(message, phrase) {
				return errors.New("crun: " + message)
			}
			return fmt.Errorf("%s (crun: %s)", phrase, message)
		}
	}
	return errors.New("crun: " + message)
}
