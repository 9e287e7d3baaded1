package audit

import (
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds, in bytes of what is written, before JSON's own escapes. A line of
// nothing but the longest of all is shorter than maxLine.
const (
	maxName   = 256
	maxPath   = 1024
	maxDetail = 1024
	maxArg    = 512
	maxArgv   = 4096
)

// text makes a foreign string safe for a log that people read in a terminal:
// what does not print (control characters, the marks that turn the direction of
// writing around, bytes that are no UTF-8) is written as in Go, \x1b or
// \u202e, and so is the backslash, so that nothing can pretend to be an escape.
// More than limit bytes are cut, and their number is said.
func text(s string, limit int) string {
	if len(s) <= limit && plainASCII(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		var piece string
		switch {
		case r == utf8.RuneError && size == 1:
			piece = fmt.Sprintf(`\x%02x`, s[i])
		case r == '\\':
			piece = `\\`
		case unicode.IsPrint(r):
			piece = s[i : i+size]
		case r < utf8.RuneSelf:
			piece = fmt.Sprintf(`\x%02x`, r)
		case r < 1<<16:
			piece = fmt.Sprintf(`\u%04x`, r)
		default:
			piece = fmt.Sprintf(`\U%08x`, r)
		}
		if b.Len()+len(piece) > limit {
			fmt.Fprintf(&b, "…(+%d bytes)", len(s)-i)
			break
		}
		b.WriteString(piece)
		i += size
	}
	return b.String()
}

func plainASCII(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' || s[i] == '\\' {
			return false
		}
	}
	return true
}

var (
	// A URL's query and fragment, and the user and password before its host.
	urlQuery = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]{1,15}://[^\s?#]*)[?#]\S*`)
	urlUser  = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]{1,15}://)[^\s/@?#]*@`)
)

// withoutQueries takes queries, fragments and passwords out of the URLs in s.
func withoutQueries(s string) string {
	if !strings.Contains(s, "://") {
		return s
	}
	s = urlUser.ReplaceAllString(s, "${1}[removed]@")
	return urlQuery.ReplaceAllString(s, "${1}?[removed]")
}

// argv bounds a command's arguments, each and together.
func argv(args []string) []string {
	if len(args) == 0 {
		return nil
	}
	var out []string
	total := 0
	for i, a := range args {
		// Cut first, so that the search below is of bounded text. What a cut could
		// hide from it is not written either.
		over := 0
		if len(a) > maxArg {
			over = len(a) - maxArg
			a = a[:maxArg]
		}
		a = text(withoutQueries(a), maxArg)
		if over > 0 {
			a += fmt.Sprintf("…(+%d bytes)", over)
		}
		// Each argument has its quotes and its comma.
		if total += len(a) + 3; total > maxArgv {
			return append(out, fmt.Sprintf("…(+%d arguments)", len(args)-i))
		}
		out = append(out, a)
	}
	return out
}

// NewRecord makes a record of what a producer says, with every string bounded and
// escaped. It still has no place in the chain: a Log gives it one.
func NewRecord(at time.Time, id Identity, e Entry) Record {
	return Record{
		Time:      at,
		Container: text(id.Container, maxName),
		Agent:     text(id.Agent, maxName),
		Policy:    text(id.Policy, maxName),
		Entry:     clean(e),
	}
}

// clean returns e with every string bounded and escaped.
func clean(e Entry) Entry {
	e.Rule = text(e.Rule, maxName)
	if e.Subject != nil {
		s := *e.Subject
		s.Exe = text(s.Exe, maxPath)
		s.Argv = argv(s.Argv)
		e.Subject = &s
	}
	if e.Object != nil {
		o := *e.Object
		for _, s := range []*string{&o.Action, &o.Exec, &o.Access, &o.Host, &o.Protocol, &o.Method, &o.Name, &o.Hypervisor, &o.Mode, &o.Layer, &o.SHA256, &o.File} {
			*s = text(*s, maxName)
		}
		if e.Event == Network {
			o.Path, _, _ = strings.Cut(o.Path, "?")
			o.Path, _, _ = strings.Cut(o.Path, "#")
		}
		for _, s := range []*string{&o.Source, &o.Path, &o.Destination} {
			*s = text(*s, maxPath)
		}
		if len(o.Detail) > maxDetail {
			o.Detail = o.Detail[:maxDetail]
		}
		o.Detail = text(withoutQueries(o.Detail), maxDetail)
		e.Object = &o
	}
	if e.Approval != nil {
		a := *e.Approval
		for _, s := range []*string{&a.ID, &a.By, &a.Scope} {
			*s = text(*s, maxName)
		}
		e.Approval = &a
	}
	return e
}
