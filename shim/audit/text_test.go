package audit

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"/bin/sh":         "/bin/sh",
		"grün 東京":         "grün 東京",
		"a\nb":            `a\x0ab`,
		"\x1b[31mred":     `\x1b[31mred`,
		`\x1b`:            `\\x1b`,
		"\x7f\u009b1m":    `\x7f\u009b1m`,
		"a\u202egnp.exe":  `a\u202egnp.exe`,
		"\xff\xfe":        `\xff\xfe`,
		"\U000e0041":      `\U000e0041`,
		"a\u00a0b\u2028c": `a\u00a0b\u2028c`,
	} {
		if got := text(in, 100); got != want {
			t.Errorf("text(%q) = %s, want %s", in, got, want)
		}
	}
	if got := text(strings.Repeat("ä", 100), 11); got != "äääää…(+190 bytes)" {
		t.Errorf("cut: %s", got)
	}
}

func TestQueriesAndPasswordsOfURLsAreNotWritten(t *testing.T) {
	e := clean(Entry{
		Event:   Network,
		Subject: &Subject{Argv: []string{"curl", "https://user:secret@host/p?token=secret&x=1#secret", "-d@https://host/?secret", "ssh://secret@host"}},
		Object:  &Object{Path: "/v1/items?key=secret#secret", Detail: "GET http://host/path?secret failed"},
	})
	data, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), "secret") {
		t.Errorf("%s", data)
	}
	for _, want := range []string{"https://[removed]@host/p?[removed]", `"path":"/v1/items"`, "http://host/path?[removed] failed"} {
		if !strings.Contains(string(data), want) {
			t.Errorf("%s lacks %s", data, want)
		}
	}
}

func TestArgvIsBounded(t *testing.T) {
	long := argv([]string{"sh", "-c", strings.Repeat("x", 100_000)})
	if got := long[2]; len(got) > maxArg+40 || !strings.HasSuffix(got, "…(+99488 bytes)") {
		t.Errorf("%d bytes: %s", len(got), got[maxArg:])
	}
	many := argv(make([]string, 50_000))
	if last := many[len(many)-1]; len(many) > maxArgv/3+1 || !strings.HasSuffix(last, " arguments)") {
		t.Errorf("%d arguments, the last %q", len(many), last)
	}
	if argv(nil) != nil {
		t.Error("no arguments are something")
	}
}

// fill sets every field of a struct to the longest and worst there is.
func fill(v reflect.Value, worst string) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), worst)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), worst)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1000, 1000))
		for i := range v.Len() {
			fill(v.Index(i), worst)
		}
	case reflect.String:
		v.SetString(worst)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(-1 << 31)
	case reflect.Uint16:
		v.SetUint(1<<16 - 1)
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(1<<32 - 1)
	}
}

// Whatever a producer hands in, its record fits a line: one that did not would
// stop a container.
func TestEveryEntryFitsALine(t *testing.T) {
	for _, worst := range []string{"\x00", `"`, "\\", "\xff", "\u202e", "ä", "<", "\U0010ffff"} {
		var e Entry
		fill(reflect.ValueOf(&e).Elem(), strings.Repeat(worst, 5000))
		e.Event, e.Decision, e.Would = Network, Deny, Deny
		all := strings.Repeat(worst, 5000)
		r := NewRecord(time.Now(), Identity{Container: all, Agent: all, Policy: all}, e)
		r.Seq, r.BootID, r.Prev = 1<<63, bootID(), noHash
		line, err := encode(&r)
		if err != nil {
			t.Errorf("%q: %v", worst, err)
			continue
		}
		for _, c := range string(line[:len(line)-1]) {
			if !unicode.IsPrint(c) {
				t.Errorf("%q: the line has the character %q", worst, c)
				break
			}
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("\x1b]0;x\x07", 10)
	f.Add("\\u202e\xff", 3)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = max(0, min(limit, maxPath))
		got := text(s, limit)
		if len(got) > limit+40 || !utf8.ValidString(got) {
			t.Fatalf("text(%q, %d) = %q", s, limit, got)
		}
		for _, r := range got {
			if !unicode.IsPrint(r) {
				t.Fatalf("text(%q) = %q", s, got)
			}
		}
		again := argv(strings.Fields(s))
		if len(strings.Join(again, "")) > maxArgv+100 {
			t.Fatalf("argv of %q has %d bytes", s, len(strings.Join(again, "")))
		}
	})
}
