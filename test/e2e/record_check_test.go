package e2e

import "testing"

func TestNormal(t *testing.T) {
	t.Setenv("N", "exec-17")
	t.Setenv("WORK", "/tmp/w")
	for in, want := range map[string]string{
		"exec-17-server in /tmp/w/data":  "NAME-server in WORK/data",
		"runc create failed: runcible":   "RUNTIME create failed: runcible",
		"crun":                           "RUNTIME",
		"0123456789ab 0123456789abcdef0": "ID 0123456789abcdef0",
		"172.17.0.2 10.0.0.1":            "ADDRESS 10.0.0.1",
		"02:42:ac:11:00:02":              "MAC",
		"2026-11-24T18:00:00.123456789Z": "TIME",
	} {
		if got := normal(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

func TestAgainst(t *testing.T) {
	a := outcome{Code: 1, Stdout: "x"}
	b := outcome{Code: 2, Stdout: "x"}
	declared := func(o outcome) outcome { o.Differs = "reason"; return o }
	varying := func(o outcome) outcome { o.Varies = "reason"; return o }
	for name, c := range map[string]struct {
		a, b outcome
		bad  bool
	}{
		"same":                            {a, a, false},
		"different":                       {a, b, true},
		"different and declared":          {declared(a), declared(b), false},
		"declared and not different":      {declared(a), declared(a), true},
		"another every time, different":   {varying(a), varying(b), false},
		"another every time, by accident": {varying(a), varying(a), false},
	} {
		if fault := c.a.against(c.b); (fault != "") != c.bad {
			t.Errorf("%s: %q", name, fault)
		}
	}
}
