package audit

import (
	"strings"
	"testing"
	"time"
)

func TestReportForAPerson(t *testing.T) {
	l := newTestLog(t, Options{})
	mustAppend(t, l, event("a", 1))
	write := func() string {
		r, err := Verify(l.o.Dir, VerifyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := r.Write(&b, "/log"); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	got := write()
	if !strings.HasPrefix(got, "/log is intact: 2 records in 1 file,") {
		t.Errorf("%s", got)
	}
	_, place, _ := strings.Cut(strings.TrimSpace(got), "last record: ")
	if p, err := ParsePlace(place); err != nil || p.Seq != 2 {
		t.Errorf("%v, %v", p, err)
	}
	change(t, l.o.Dir, func(data []byte) []byte { data[10] ^= 1; return data })
	if got := write(); !strings.HasPrefix(got, "/log is NOT as it was written") || !strings.Contains(got, "problem  audit.jsonl:1: ") || strings.Contains(got, "last record") {
		t.Errorf("%s", got)
	}
}

func TestParsePlace(t *testing.T) {
	for _, s := range []string{"", "1", "0:" + noHash, "-1:" + noHash, "1:" + noHash[1:], "1:" + strings.Repeat("A", 64), "x:" + noHash} {
		if p, err := ParsePlace(s); err == nil {
			t.Errorf("ParsePlace(%q) = %v", s, p)
		}
	}
}

func TestParseSince(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Time{
		"90s":                  now.Add(-90 * time.Second),
		"2026-01-30":           now.Add(-36 * time.Hour),
		"2026-01-31 11:59:00":  now.Add(-time.Minute),
		"2026-01-31T12:00:00Z": now,
	} {
		if got, err := ParseSince(s, now); err != nil || !got.Equal(want) {
			t.Errorf("ParseSince(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "yesterday", "-1h", "31.1.2026"} {
		if got, err := ParseSince(s, now); err == nil {
			t.Errorf("ParseSince(%q) = %v", s, got)
		}
	}
}

func TestParseEvents(t *testing.T) {
	if got, err := ParseEvents([]string{"exec", "boundary"}); err != nil || len(got) != 2 || got[1] != Boundary {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := ParseEvents([]string{"execs"}); err == nil || !strings.Contains(err.Error(), "lifecycle") {
		t.Errorf("%v: want an error that names those there are", err)
	}
}
