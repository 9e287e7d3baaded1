// Package printable makes foreign text fit to be shown. It does not shorten it.
package printable

import "strings"

// Text is the part of a text that does nothing to the terminal it is printed on.
func Text(text string) string {
	const delete, lastC1 = 0x7f, 0x9f
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || r >= ' ' && (r < delete || r > lastC1) && r != '\uFFFD' {
			return r
		}
		return -1
	}, text))
}
