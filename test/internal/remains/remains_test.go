package remains

import (
	"slices"
	"testing"
)

func TestAdded(t *testing.T) {
	for name, c := range map[string]struct{ before, now, want []string }{
		"the same":        {[]string{"a", "b"}, []string{"a", "b"}, nil},
		"less":            {[]string{"a", "b"}, []string{"b"}, nil},
		"one more":        {[]string{"a"}, []string{"a", "b"}, []string{"b"}},
		"another instead": {[]string{"a"}, []string{"b"}, []string{"b"}},
		"a second one":    {[]string{"a"}, []string{"a", "a"}, []string{"a"}},
	} {
		if got := added(c.before, c.now); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// The name is part of the contract between the shim and who looks for it.
func TestShort(t *testing.T) {
	if got := Short("c0ffee"); len(got) != 16 || got == Short("c0ffef") {
		t.Errorf("%q", got)
	}
}
