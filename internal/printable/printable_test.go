package printable

import (
	"strings"
	"testing"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		" plain\ttext\n":     "plain\ttext",
		"\x1b[31mred\x1b[0m": "[31mred[0m",
		"a\xffb\u009bc\x7fd": "abcd",
		"ä\nö":               "ä\nö",
	} {
		if got := Text(in); got != want {
			t.Errorf("Text(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("plain\ttext\n")
	f.Add("\x1b[2J\x9b\u009b\x7f\xff")
	f.Fuzz(func(t *testing.T, in string) {
		out := Text(in)
		if len(out) > len(in) || strings.ContainsAny(out, "\x1b\x07\x08\r\x7f\u009b") {
			t.Fatalf("Text(%q) = %q", in, out)
		}
	})
}
