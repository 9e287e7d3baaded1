package shimlog

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const started = `time="2026-11-24T18:11:34.878210880Z" level=info msg="container started" began="2026-11-24T18:11:25.4Z" container=95ac cpus=1 hypervisor="qemu (emulation)" kernel_ms=4826.862` + "\n"

func TestParse(t *testing.T) {
	for name, test := range map[string]struct {
		line string
		want Entry
	}{
		"a message":       {started, Entry{"time": "2026-11-24T18:11:34.878210880Z", "level": "info", "msg": "container started", "began": "2026-11-24T18:11:25.4Z", "container": "95ac", "cpus": "1", "hypervisor": "qemu (emulation)", "kernel_ms": "4826.862"}},
		"quotes inside":   {`msg="say \"x=1\" twice" a=b`, Entry{"msg": `say "x=1" twice`, "a": "b"}},
		"empty value":     {`a= b=c`, Entry{"a": "", "b": "c"}},
		"a word before":   {`Nov 24 host containerd: a=b`, Entry{"a": "b"}},
		"an open quote":   {`a="b c`, Entry{"a": `"b`}},
		"no line at all":  {"", Entry{}},
		"nothing like it": {"panic", Entry{}},
	} {
		if got := Parse(test.line); !maps.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(started)
	f.Add(`a="\`)
	f.Fuzz(func(_ *testing.T, line string) { Parse(line) })
}

func TestWaitSeesWhatWasWrittenSince(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	write := func(s string) {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		if _, err := f.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	write(started)
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	write("half a line msg=\"container started\" container=95ac")
	if e, err := l.Wait("95ac", Started, 0); err == nil {
		t.Fatalf("got %v, from before Open or from a line that is not whole", e)
	}
	write("\n" + started)
	e, err := l.Wait("95ac", Started, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Number("kernel_ms"); err == nil {
		t.Error("a field that is not there has a number")
	}
}

func TestFields(t *testing.T) {
	e := Parse(started)
	if n, err := e.Number("kernel_ms"); err != nil || n != 4826.862 {
		t.Errorf("kernel_ms: %v, %v", n, err)
	}
	if at, err := e.Time("began"); err != nil || at.Unix() != 1795543885 {
		t.Errorf("began: %v, %v", at.Unix(), err)
	}
	if _, err := e.Time("cpus"); err == nil {
		t.Error("cpus is a time")
	}
}
