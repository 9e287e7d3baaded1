package intercept

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nanoclaw/nanoclaw/annotations"
)

func TestReadSource(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct{ content, value, why string }{
		"plain":       {"value-of-it", "value-of-it", ""},
		"a line":      {"value-of-it\n", "value-of-it", ""},
		"from DOS":    {"value-of-it\r\n", "value-of-it", ""},
		"spaces":      {" value of it ", " value of it ", ""},
		"two lines":   {"value-of-it\n\n", "", "control characters"},
		"a field":     {"value\r\nHost: evil", "", "control characters"},
		"empty":       {"\n", "", "at least 8"},
		"short":       {"1234567\n", "", "at least 8"},
		"longest":     {strings.Repeat("x", maxSource), strings.Repeat("x", maxSource), ""},
		"over length": {strings.Repeat("x", maxSource+1), "", "over"},
	} {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(c.content), 0o600))
		v, err := ReadSource(annotations.Secret{Env: "TOKEN", Source: "file:" + path})
		switch {
		case c.why == "" && (err != nil || v != c.value):
			t.Errorf("%s: %.20q, %v", name, v, err)
		case c.why != "" && (err == nil || !strings.Contains(err.Error(), c.why) || !strings.Contains(err.Error(), "TOKEN") || !strings.Contains(err.Error(), path)):
			t.Errorf("%s: %.20q, %v", name, v, err)
		}
	}
	must(t, os.Chmod(filepath.Join(dir, "plain"), 0o644))
	for source, why := range map[string]string{
		"file:" + filepath.Join(dir, "plain"): "can be read by everybody", "file:" + dir + "/none": "is missing", "vault:x": "none of the places",
	} {
		if _, err := ReadSource(annotations.Secret{Env: "TOKEN", Source: source}); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", source, err)
		}
	}
}
