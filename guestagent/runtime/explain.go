package runtime

import (
	"fmt"
	"regexp"
	"strings"
)

// failures is how runc, and containerd's shim for it, begin the error of each
// operation. People know these words, and scripts look for them.
var failures = map[string]string{
	"create": "OCI runtime create failed: crun create failed: ",
	"exec":   "OCI runtime exec failed: exec failed: ",
}

// process is how the error of a process that cannot be started goes on.
var process = map[string]string{
	"create": "unable to start container process: error during container init: ",
	"exec":   "unable to start container process: ",
}

// translations are crun's words for a program that cannot be started, each with
// what runc says then. The group is the program's or the folder's name.
var translations = []struct {
	crun *regexp.Regexp
	runc string
}{
	{regexp.MustCompile("executable file `(.*)` not found in \\$PATH"), "exec: %[1]q: executable file not found in $PATH"},
	{regexp.MustCompile("executable file `(.+)` not found"), "exec: %[1]q: stat %[1]s: no such file or directory"},
	{regexp.MustCompile("cannot find `(.*)` in \\$PATH"), "exec: %[1]q: executable file not found in $PATH"},
	{regexp.MustCompile("the path `(.*)` is not a regular file"), "exec: %[1]q: is a directory: permission denied"},
	{regexp.MustCompile("the path `(.*)` exists but it is not executable"), "exec: %[1]q: permission denied"},
	{regexp.MustCompile("chdir to `(.*)`: No such file or directory"), "chdir to cwd (%[1]q) set in config.json failed: no such file or directory"},
	{regexp.MustCompile("chdir to `(.*)`: Permission denied"), "chdir to cwd (%[1]q) set in config.json failed: permission denied"},
	{regexp.MustCompile("chdir to `(.*)`: Not a directory"), "chdir to cwd (%[1]q) set in config.json failed: not a directory"},
}

// Error is what crun says of a call that failed. By its words Docker tells a
// program that does not exist (127) from one that cannot be run (126).
type Error struct{ text string }

// Error is part of error.
func (e *Error) Error() string { return e.text }

// explain returns the error for a message of crun's about the operation. Docker
// knows runc's words best, so those are used where crun's differ.
func explain(operation, message string) *Error {
	message = strings.TrimSpace(message)
	start, known := failures[operation]
	if !known {
		return &Error{fmt.Sprintf("OCI runtime %s failed: crun: %s", operation, message)}
	}
	for _, t := range translations {
		if m := t.crun.FindStringSubmatch(message); m != nil {
			return &Error{start + process[operation] + fmt.Sprintf(t.runc, m[1])}
		}
	}
	return &Error{start + message}
}
