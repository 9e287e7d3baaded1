// Package pattern matches the names that a policy is written in: paths with
// wildcards, and network endpoints.
//
// For each kind there is a check of the notation, a match against a name, and
// "covers": whether everything that one pattern matches is matched by another.
// Covers is what keeps a policy narrow, so it errs on one side only: it never
// says yes wrongly, and may say no to two patterns that in truth are nested.
//
// It is not for deciding about files or connections. A path is a name here, and
// what a name means is for whoever can look.
package pattern

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// Bounds of a path pattern.
const (
	// MaxPath is the longest, in bytes.
	MaxPath = 1024
	// MaxSegments is the largest number of names between slashes.
	MaxSegments = 64
)

// anyDepth matches any number of names, also none.
const anyDepth = "**"

// CheckPath says what is wrong with a path pattern: it must be absolute and
// clean. In a name, * matches any characters and ? one; ** as a whole name
// matches any number of names.
func CheckPath(p string) error {
	switch {
	case !path.IsAbs(p):
		return errors.New("it is not an absolute path")
	case len(p) > MaxPath:
		return fmt.Errorf("it is longer than %d bytes", MaxPath)
	case path.Clean(p) != p:
		return fmt.Errorf("it is not clean (write %s)", path.Clean(p))
	case strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }):
		return errors.New("it contains a control character or is not UTF-8")
	case strings.ContainsAny(p, `[]{}\`):
		return errors.New(`it contains one of [ ] { } \, which have no meaning here; the wildcards are *, ? and **`)
	}
	names := split(p)
	if len(names) > MaxSegments {
		return fmt.Errorf("it has more than %d names", MaxSegments)
	}
	for _, name := range names {
		if name != anyDepth && strings.Contains(name, anyDepth) {
			return errors.New("** stands alone between slashes: /a/**/b")
		}
	}
	return nil
}

// IsWild reports whether a path pattern has wildcards.
func IsWild(p string) bool { return strings.ContainsAny(p, "*?") }

// MatchPath reports whether the pattern matches the clean absolute path name.
func MatchPath(p, name string) bool {
	if !IsWild(p) {
		return p == name
	}
	return nested(split(p), split(name), func(string) bool { return false }, matchName)
}

// CoversPath reports whether outer matches all that inner matches. Both are
// patterns.
func CoversPath(outer, inner string) bool {
	return nested(split(outer), split(inner), func(n string) bool { return n == anyDepth }, coversName)
}

// nested compares name by name. One that is deep can only be covered by **.
func nested(outer, inner []string, deep func(string) bool, covers func(outer, inner string) bool) bool {
	// row[j] is whether the names of outer so far cover the first j of inner.
	row := make([]bool, len(inner)+1)
	row[0] = true
	for _, o := range outer {
		next := make([]bool, len(inner)+1)
		for j := range next {
			switch {
			case o == anyDepth:
				next[j] = row[j] || j > 0 && next[j-1]
			case j > 0:
				next[j] = row[j-1] && !deep(inner[j-1]) && covers(o, inner[j-1])
			}
		}
		row = next
	}
	return row[len(inner)]
}

func split(p string) []string {
	p = strings.Trim(p, "/")
	if p == "" {
		return nil
	}
	return strings.Split(p, "/")
}

// coversName is sound and not complete, which suffices for names in lists that
// people wrote.
func coversName(outer, inner string) bool {
	if outer == inner || outer == "*" {
		return true
	}
	if !IsWild(inner) {
		return matchName(outer, inner)
	}
	prefix, isPrefix := strings.CutSuffix(outer, "*")
	return isPrefix && !IsWild(prefix) && strings.HasPrefix(inner, prefix)
}

// matchName matches one name, in time linear in each of the two.
func matchName(p, name string) bool {
	pi, ni, star, mark := 0, 0, -1, 0
	for ni < len(name) {
		switch {
		case pi < len(p) && p[pi] == '*':
			star, mark = pi, ni
			pi++
		case pi < len(p) && (p[pi] == '?' || p[pi] == name[ni]):
			pi++
			ni++
		case star >= 0:
			mark++
			pi, ni = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(p[pi:], "*") == ""
}
