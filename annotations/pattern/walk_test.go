package pattern

import (
	"path"
	"strings"
	"testing"
)

func TestWalk(t *testing.T) {
	for _, c := range []struct {
		patterns, name string
		matched, ends  bool
	}{
		{"/w/.env*", "/", false, false},
		{"/w/.env*", "/w", false, false},
		{"/w/.env*", "/w/.env.local", true, true},
		{"/w/.env*", "/w/.env/below", true, true},
		{"/w/.env*", "/w/a", false, true},
		{"/w/.env*", "/x", false, true},
		{"/w/**/secret", "/w", false, false},
		{"/w/**/secret", "/w/a/b", false, false},
		{"/w/**/secret", "/w/secret", true, false},
		{"/w/**/secret", "/w/a/b/secret", true, false},
		{"/w/**/secret", "/w/a/b/secret/c", true, false},
		{"/w/**", "/w", true, false},
		{"/**/.ssh", "/home/x/.ssh", true, false},
		{"/a/?b/* /c/d", "/a/xb/y", true, true},
		{"/a/?b/* /c/d", "/c", false, false},
		{"", "/c", false, true},
	} {
		w := NewWalk(strings.Fields(c.patterns)).To(c.name)
		if w.Matched() != c.matched || w.Ends() != c.ends {
			t.Errorf("%s in %s: matched %v, ends %v", c.name, c.patterns, w.Matched(), w.Ends())
		}
	}
}

func TestWalksAreTheSameWhereTheSameIsBelow(t *testing.T) {
	for _, c := range []struct {
		patterns, a, b string
		same           bool
	}{
		{"/w/**/secret", "/w/a", "/w/b/c", true},
		{"/w/**/secret", "/w/a", "/x", false},
		{"/w/*/secret", "/w/a", "/w/b", true},
		{"/w/*/secret", "/w/a", "/w/a/b", false},
		{"/w/a/secret", "/w/a", "/w/b", false},
		{"/w/a/secret", "/w/b", "/w/c/d", true},
		{"/w/.env*", "/w/a", "/w/b", true},
	} {
		w := NewWalk(strings.Fields(c.patterns))
		if got := w.To(c.a).Same(w.To(c.b)); got != c.same {
			t.Errorf("%s: %s and %s: same %v", c.patterns, c.a, c.b, got)
		}
	}
}

// FuzzWalk holds a walk against matching the path and every folder above it.
func FuzzWalk(f *testing.F) {
	f.Add("/w/**/secret", "/w/a/secret/b")
	f.Add("/**/a/**/b*", "/a/b/c/a/bb")
	f.Add("/w/**", "/w")
	f.Fuzz(func(t *testing.T, p, name string) {
		if CheckPath(p) != nil || CheckPath(name) != nil || len(split(p)) >= MaxSegments {
			return
		}
		want := false
		for at := name; ; at = path.Dir(at) {
			want = want || IsWild(p) && MatchPath(p, at) || p == at
			if at == "/" {
				break
			}
		}
		if got := NewWalk([]string{p}).To(name).Matched(); got != want {
			t.Errorf("%q in %q: %v", name, p, got)
		}
	})
}
