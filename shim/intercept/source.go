package intercept

import (
	"errors"
	"fmt"
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
