package runtime

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// translations are crun's words for a program that cannot be started, each with
// what runc says then. The first group is the program's name.
var translations = []struct {
	crun *regexp.Regexp
	runc string
}{
	{regexp.MustCompile("executable file `(.*)` not found in \\$PATH"), "exec: %q: executable file not found in $PATH"},
	{regexp.MustCompile("executable file `(.*)` not found"), "exec: %q: no such file or directory"},
	{regexp.MustCompile("the path `(.*)` is not a regular file"), "exec: %q: is a directory or no regular file: permission denied"},
	{regexp.MustCompile("the path `(.*)` exists but it is not executable"), "exec: %q: permission denied"},
}

// explain returns the error for a message of crun's. Docker tells a program
// that does not exist (127) from one that cannot be run (126) by the words of
// the runtime it knows best, so those come first where crun's differ.
func explain(message string) error {
	message = strings.TrimSpace(message)
	for _, t := range translations {
		if m := t.crun.FindStringSubmatch(message); m != nil {
			return fmt.Errorf(t.runc+" (crun: %s)", m[1], message)
		}
	}
	return errors.New("crun: " + message)
}
