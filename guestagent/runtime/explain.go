package runtime

import (
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

// Error is what crun says of a call that failed. By its words Docker tells a
// program that does not exist (127) from one that cannot be run (126).
type Error struct{ text string }

// Error is part of error.
func (e *Error) Error() string { return e.text }

// explain returns the error for a message of crun's. Docker knows runc's words
// best, so those come first where crun's differ.
func explain(message string) *Error {
	message = strings.TrimSpace(message)
	for _, t := range translations {
		if m := t.crun.FindStringSubmatch(message); m != nil {
			return &Error{fmt.Sprintf(t.runc+" (crun: %s)", m[1], message)}
		}
	}
	return &Error{"crun: " + message}
}
