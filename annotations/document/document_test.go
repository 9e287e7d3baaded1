package document

import (
	"errors"
	"strings"
	"testing"
)

func TestYAML(t *testing.T) {
	n, err := YAML([]byte("# a comment\na: [x, \"true\", true, 7, ~]\nb:\n  c: {d: e}\n"))
	if err != nil {
		t.Fatal(err)
	}
	a := n.Get("a")
	for i, want := range []Kind{Text, Text, Bool, Number, Null} {
		if a.Items[i].Kind != want || a.Items[i].Line != 2 {
			t.Errorf("item %d is %+v, want %s", i, a.Items[i], want)
		}
	}
	if d := n.Get("b").Get("c").Get("d"); d.Text != "e" || d.Line != 4 {
		t.Errorf("%+v", d)
	}
	for _, empty := range []string{"", "# nothing\n", "---\n"} {
		if n, err := YAML([]byte(empty)); err != nil || n.Kind == List || len(n.Fields) > 0 {
			t.Errorf("%q: %+v, %v", empty, n, err)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		read func([]byte) (*Node, error)
		in   string
		line int
		text string
	}{
		{YAML, "a: 1\nb: 2\na: 3\n", 3, "twice"},
		{YAML, "a: &x 1\nb: *x\n", 1, "anchor"},
		{YAML, "a: 1\nb: *x\n", 2, ""},
		{YAML, "a: !!str 1\n", 1, "tag"},
		{YAML, "a:\n  <<: {b: c}\n", 2, "plain word"},
		{YAML, "a: 1\n---\nb: 2\n", 2, "second document"},
		{YAML, "a:\n\t- b\n", 2, "not YAML"},
		{YAML, "[a]: b\n", 1, "plain word"},
		{YAML, "a: 1\nb: \xff\n", 2, "UTF-8"},
		{YAML, strings.Repeat("[", 200000), 1, ""},
		{YAML, strings.Repeat("- ", MaxDepth+2) + "a", 1, "deeper"},
		{YAML, "a: [" + strings.Repeat("x,", MaxValues) + "x]", 1, "values"},
		{YAML, strings.Repeat("#", MaxBytes+1), 1, "larger"},
		{JSON, `{"a":1,"a":2}`, 1, "twice"},
		{JSON, "{\n\"a\":}", 2, "not JSON"},
		{JSON, `{} {}`, 1, "follows"},
		{JSON, `{"a":`, 1, "not JSON"},
		{JSON, `{"a":[}`, 1, "not JSON"},
		{JSON, "", 1, "not JSON"},
		{JSON, strings.Repeat("[", 100000), 1, "deeper"},
	} {
		_, err := c.read([]byte(c.in))
		var e *Error
		if !errors.As(err, &e) || e.Line != c.line || !strings.Contains(e.Text, c.text) {
			t.Errorf("%.30q: %v, want line %d with %q", c.in, err, c.line, c.text)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"support-agent", "sales-agent"}
	for word, want := range map[string]string{"support-agnt": "support-agent", "sales": "", "sale-agent": "sales-agent", "zzz": "", "": "", strings.Repeat("s", 1000): ""} {
		if got := Nearest(word, known); got != want {
			t.Errorf("nearest to %.20q is %q, want %q", word, got, want)
		}
	}
}

func FuzzYAML(f *testing.F) {
	f.Add([]byte("version: 1\nagents:\n  - name: a\n    tools: [x]\n"))
	f.Add([]byte("a: &x [*x]\n"))
	f.Add([]byte("? [a]\n: b\n"))
	f.Fuzz(func(t *testing.T, data []byte) { bounded(t, data, YAML) })
}

func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"exec":{"mode":"image"},"tools":["a"],"n":1.5,"b":true,"z":null}`))
	f.Fuzz(func(t *testing.T, data []byte) { bounded(t, data, JSON) })
}

func bounded(t *testing.T, data []byte, read func([]byte) (*Node, error)) {
	n, err := read(data)
	if err != nil {
		var e *Error
		if !errors.As(err, &e) || e.Line < 1 {
			t.Errorf("an error without a line: %v", err)
		}
		return
	}
	var walk func(n *Node, depth int) int
	walk = func(n *Node, depth int) int {
		if depth > MaxDepth {
			t.Fatal("too deep")
		}
		count := 1
		for _, i := range n.Items {
			count += walk(i, depth+1)
		}
		for _, f := range n.Fields {
			count += walk(f.Value, depth+1)
		}
		return count
	}
	if walk(n, 0) > MaxValues {
		t.Error("too many values")
	}
}
