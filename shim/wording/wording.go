// Package wording keeps messages of ours from being taken for something else.
//
// Docker's daemon and client know only the text of an error, and take certain
// phrases, which are also those of the kernel for a file that is missing, for a
// statement about the container's program: docker run then ends with 126 or 127
// although nothing of the container has been looked at. Whatever the shim says
// goes through here, unless it is the container runtime's word about the program.
package wording

import (
	"errors"
	"regexp"
)

// phrases are what Docker looks for, in any case of letters, and what is said
// instead.
var phrases = []struct {
	docker *regexp.Regexp
	ours   string
}{
	{regexp.MustCompile(`(?i)executable file not found`), "program not found"},
	{regexp.MustCompile(`(?i)no such file or directory`), "it does not exist"},
	{regexp.MustCompile(`(?i)(the )?system cannot find the file specified`), "it does not exist"},
	{regexp.MustCompile(`(?i)permission denied`), "access is denied"},
	{regexp.MustCompile(`(?i)is a directory`), "is a folder"},
	{regexp.MustCompile(`(?i)not a directory`), "not a folder"},
}

// Plain returns the message without those phrases.
func Plain(message string) string {
	for _, p := range phrases {
		message = p.docker.ReplaceAllString(message, p.ours)
	}
	return message
}

// Error returns an error whose message is Plain; it wraps nothing.
func Error(err error) error {
	if err == nil {
		return nil
	}
	return errors.New(Plain(err.Error()))
}
