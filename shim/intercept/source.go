package intercept

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/internal/ownedfile"
)

const (
	maxSource = 64 << 10
	// minValue is how long a value has to be: a shorter one is found in anything
	// that a server answers.
	minValue = 8
)

// Available tells whether a container of that policy can have a secret: its value
// can be read now. The error is an [annotations.Refusal], or one that wraps
// [fs.ErrPermission] where this process may not look.
func Available(p *annotations.Policy, s annotations.Secret) error {
	_, err := ReadSource(s)
	if err == nil || os.Geteuid() != 0 && errors.Is(err, fs.ErrPermission) {
		return err
	}
	return &annotations.Refusal{
		Rule: "secret " + s.Env, Origin: s.Origin, What: fmt.Sprintf("the agent %q, which has the secret %q", p.Agent, s.Env), Why: err.Error(),
		Instead: "have the host's administrator put the value there, in a file of root's with mode 600, or start it without: io.nanoclaw.secrets=",
	}
}

// ReadSource returns a secret's value from where the host keeps it.
func ReadSource(s annotations.Secret) (string, error) {
	path, ok := strings.CutPrefix(s.Source, "file:")
	if !ok {
		return "", fmt.Errorf("the secret %s is kept in %q, which is none of the places that this version of nanoclaw can read", s.Env, s.Source)
	}
	name := "the file of the secret " + s.Env
	data, err := ownedfile.Read(ownedfile.Kind{Name: name, Max: maxSource, Private: true}, path)
	if errors.Is(err, os.ErrNotExist) {
		// In the system's words Docker would take it for a missing program.
		return "", fmt.Errorf("%s, %s, is missing", name, path)
	}
	if err != nil {
		return "", err
	}
	v := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", fmt.Errorf("%s, %s, has control characters or several lines, and cannot be sent in a request's head", name, path)
	}
	if len(v) < minValue {
		return "", fmt.Errorf("%s, %s, has %d bytes, and a secret has at least %d", name, path, len(v), minValue)
	}
	return v, nil
}
