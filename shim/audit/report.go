package audit

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Write writes the report for a person, and the last record's place in a form
// that ParsePlace reads.
func (r *Report) Write(w io.Writer, dir string) error {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	at := func(t time.Time) string { return t.Local().Format(time.DateTime) }

	verdict := "intact"
	if !r.Intact() {
		verdict = "NOT as it was written"
	}
	files := "files"
	if r.Files == 1 {
		files = "file"
	}
	line("%s is %s: %d records in %d %s, from %s to %s", dir, verdict, r.Records, r.Files, files, at(r.Since), at(r.Until))
	for _, f := range r.Problems {
		line("  problem  %s", f)
	}
	if r.More > 0 {
		line("  and %d more problems", r.More)
	}
	for _, f := range r.Losses {
		line("  loss     %s", f)
	}
	if r.Intact() {
		line("last record: %s", r.Newest)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (p Place) String() string { return fmt.Sprintf("%d:%s", p.Seq, p.Hash) }

// ParsePlace reads what Place.String writes.
func ParsePlace(s string) (Place, error) {
	seq, hash, found := strings.Cut(s, ":")
	n, err := strconv.ParseUint(seq, 10, 64)
	if !found || err != nil || n == 0 || !isHash(hash) {
		return Place{}, fmt.Errorf("%q is not the place of a record: its number, a colon, and its hash of 64 digits, as \"audit verify\" prints it", s)
	}
	return Place{n, hash}, nil
}

// ParseSince reads a moment: how long ago (90s, 24h), a date, or a date and time.
func ParseSince(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no moment such as 90s, 24h, 2026-01-31 or \"2026-01-31 12:00:00\"", s)
}

// ParseEvents reads names of events.
func ParseEvents(names []string) ([]Event, error) {
	var events []Event
	for _, name := range names {
		found := false
		for _, e := range Events {
			if string(e) == name {
				events, found = append(events, e), true
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no event %q; the events are %v", name, Events)
		}
	}
	return events, nil
}
