package pattern

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestCheckPath(t *testing.T) {
	for p, words := range map[string]string{
		"/usr/bin/git": "", "/": "", "/a/*/b?": "", "/a/**": "", "/a/**/b": "",
		"bin/sh": "absolute", "": "absolute", "/a/": "clean", "/a/../b": "clean (write /b)", "/a/b**": "alone",
		"/a\x00": "control", "/a/[ab]": "no meaning", `/a\b`: "no meaning",
		"/" + strings.Repeat("a", MaxPath): "longer", strings.Repeat("/a", MaxSegments+1): "names",
	} {
		err := CheckPath(p)
		if words == "" && err != nil || words != "" && (err == nil || !strings.Contains(err.Error(), words)) {
			t.Errorf("CheckPath(%.40q) = %v, want %q", p, err, words)
		}
	}
}

func TestMatchPath(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"/usr/bin/git", "/usr/bin/git", true},
		{"/usr/bin/git", "/usr/bin/gitk", false},
		{"/usr/bin/*", "/usr/bin/git", true},
		{"/usr/bin/*", "/usr/bin/x/git", false},
		{"/usr/bin/*", "/usr/bin", false},
		{"/usr/**", "/usr/bin/x/git", true},
		{"/usr/**", "/usr", true},
		{"/**", "/", true},
		{"/**/git", "/git", true},
		{"/**/git", "/a/b/git", true},
		{"/w/.env*", "/w/.env.local", true},
		{"/w/.env*", "/w/x.env", false},
		{"/w/p?th*n", "/w/python", true},
		{"/w/a*b*c", "/w/aXbXbc", true},
		{"/w/a*b*c", "/w/aXbXbd", false},
	} {
		if got := MatchPath(c.pattern, c.name); got != c.want {
			t.Errorf("MatchPath(%s, %s) = %v", c.pattern, c.name, got)
		}
	}
}

func TestCoversPath(t *testing.T) {
	for _, c := range []struct {
		outer, inner string
		want         bool
	}{
		{"/usr/bin/*", "/usr/bin/git", true},
		{"/usr/bin/*", "/usr/bin/*", true},
		{"/usr/bin/*", "/usr/**", false},
		{"/usr/**", "/usr/bin/*", true},
		{"/usr/**", "/usr/**/x", true},
		{"/usr/*/x", "/usr/**/x", false},
		{"/w/py*", "/w/python*", true},
		{"/w/python*", "/w/py*", false},
	} {
		if got := CoversPath(c.outer, c.inner); got != c.want {
			t.Errorf("CoversPath(%s, %s) = %v", c.outer, c.inner, got)
		}
	}
}

func TestParseEndpoint(t *testing.T) {
	for in, want := range map[string]string{
		"CRM.Example.com": "crm.example.com", "a.example.com.": "a.example.com", "x:443": "x:443", "*.x.org": "*.x.org",
		"**.x.org:80": "**.x.org:80", "**": "**", "10.0.0.1": "10.0.0.1", "::ffff:10.0.0.1": "10.0.0.1", "[::1]:80": "[::1]:80",
		"::1": "::1", "10.0.0.0/8": "10.0.0.0/8", "10.0.0.0/8:22": "10.0.0.0/8:22", "private": "private",
	} {
		e, err := ParseEndpoint(in)
		if err != nil || e.String() != want {
			t.Errorf("ParseEndpoint(%q) = %q, %v; want %q", in, e, err, want)
			continue
		}
		if again, err := ParseEndpoint(e.String()); err != nil || again != e {
			t.Errorf("%q does not read as itself: %q, %v", e, again, err)
		}
	}
	for _, in := range []string{"", "*", "a.*.b", "x:0", "x:65536", "x:", "x:+1", "[::1", "[x]:1", "[::1]x", "fe80::1%eth0", "10.0.0.1/8", "127.1", "0x7f.0x1", "a b", "-a.b", "a..b", "::ffff:10.0.0.0/104"} {
		if e, err := ParseEndpoint(in); err == nil {
			t.Errorf("ParseEndpoint(%q) = %q, want an error", in, e)
		}
	}
}

func TestEndpointMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, host string
		port          uint16
		want          bool
	}{
		{"x.org", "X.org.", 443, true},
		{"x.org:443", "x.org", 80, false},
		{"*.x.org", "a.x.org", 1, true},
		{"*.x.org", "a.b.x.org", 1, false},
		{"*.x.org", "x.org", 1, false},
		{"**.x.org", "a.b.x.org", 1, true},
		{"**.x.org", "x.org", 1, false},
		{"**.x.org", "evilx.org", 1, false},
		{"**", "anything.example", 1, true},
		{"**", "10.0.0.1", 1, true},
		{"private", "192.168.7.1", 1, true},
		{"private", "::ffff:127.0.0.1", 1, true},
		{"private", "::1", 1, true},
		{"private", "8.8.8.8", 1, false},
		{"private", "private", 1, false},
		{"10.0.0.0/8", "10.9.9.9", 1, true},
		{"169.254.169.254", "169.254.169.254", 80, true},
		{"**", "*.x", 1, false},
	} {
		e, err := ParseEndpoint(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.Match(c.host, c.port); got != c.want {
			t.Errorf("%s matches %s: %v", c.pattern, c.host, got)
		}
	}
}

// TestCoversIsSound: whatever the inner one of two nested patterns matches, the
// outer one matches too.
func TestCoversIsSound(t *testing.T) {
	name := rapid.SampledFrom([]string{"a", "b", "ab", "*", "a*", "?", "**", "*b"})
	paths := rapid.Custom(func(t *rapid.T) string {
		return "/" + strings.Join(rapid.SliceOfN(name, 1, 4).Draw(t, "names"), "/")
	})
	plain := rapid.Custom(func(t *rapid.T) string {
		return "/" + strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "ab", "c"}), 0, 4).Draw(t, "names"), "/")
	})
	rapid.Check(t, func(t *rapid.T) {
		outer, inner, one := paths.Draw(t, "outer"), paths.Draw(t, "inner"), plain.Draw(t, "name")
		if CoversPath(outer, inner) && MatchPath(inner, one) && !MatchPath(outer, one) {
			t.Fatalf("%s covers %s, and only that matches %s", outer, inner, one)
		}
	})
	hosts := rapid.SampledFrom([]string{"**", "**.x.org", "*.x.org", "x.org", "a.x.org", "*.a.x.org", "private", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "8.8.8.8", "::1"})
	ports := rapid.SampledFrom([]uint16{0, 80, 443})
	rapid.Check(t, func(t *rapid.T) {
		outer := Endpoint{hosts.Draw(t, "outer"), ports.Draw(t, "port")}
		inner := Endpoint{hosts.Draw(t, "inner"), ports.Draw(t, "port")}
		host, port := rapid.SampledFrom([]string{"x.org", "a.x.org", "b.a.x.org", "10.1.2.3", "10.9.9.9", "8.8.8.8", "::1"}).Draw(t, "host"), rapid.SampledFrom([]uint16{80, 443}).Draw(t, "port")
		if outer.Covers(inner) && inner.Match(host, port) && !outer.Match(host, port) {
			t.Fatalf("%s covers %s, and only that matches %s:%d", outer, inner, host, port)
		}
	})
}

func FuzzPath(f *testing.F) {
	f.Add("/usr/**/a*b", "/usr/x/ab")
	f.Add("/**/**/**/*", "/a/b/c/d/e")
	f.Fuzz(func(t *testing.T, p, name string) {
		if CheckPath(p) != nil || CheckPath(name) != nil || IsWild(name) {
			return
		}
		if CoversPath(p, name) != MatchPath(p, name) {
			t.Errorf("%q against the plain %q: covers and match differ", p, name)
		}
	})
}

func FuzzEndpoint(f *testing.F) {
	f.Add("*.example.com:443", "a.example.com")
	f.Add("[::1]:80", "::1")
	f.Add("10.0.0.0/8", "10.0.0.1")
	f.Fuzz(func(t *testing.T, s, host string) {
		e, err := ParseEndpoint(s)
		if err != nil {
			return
		}
		again, err := ParseEndpoint(e.String())
		if err != nil || again != e {
			t.Errorf("%q reads as %q, %v", e, again, err)
		}
		if !e.Covers(e) {
			t.Errorf("%q does not cover itself", e)
		}
		_ = e.Match(host, 443)
	})
}
