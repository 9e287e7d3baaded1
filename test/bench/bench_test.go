package main

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/nanoclaw/nanoclaw/test/internal/shimlog"
)

var began = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func at(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }

// A start of 2000 ms, of which the shim has seen 1800.
var (
	client  = run{id: "c", began: began, output: at(2000), ended: at(2300)}
	started = shimlog.Entry{
		"began":     at(150).Format(time.RFC3339Nano),
		"launch_ms": "20", "prepare_ms": "30", "vmm_ms": "100.4", "kernel_ms": "899.6", "agent_ms": "200",
		"create_ms": "300", "engine_ms": "40", "network_ms": "10", "start_ms": "150", "guest_uptime_ms": "700",
	}
	closed = shimlog.Entry{"output_ms": "210"}
)

func TestPhasesAddUpToTheTotal(t *testing.T) {
	s, err := timed(client)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.split(client, started, closed); err != nil {
		t.Fatal(err)
	}
	sum, byPart := 0.0, 0.0
	for _, p := range phases {
		sum += s.Phases[p.field]
	}
	for _, p := range parts() {
		byPart += s.part(p)
	}
	if math.Abs(sum-2000) > 0.001 || math.Abs(byPart-2000) > 0.001 || s.Total != 2000 || s.Whole != 2300 {
		t.Errorf("phases %v, parts %v, total %v, whole %v: %v", sum, byPart, s.Total, s.Whole, s.Phases)
	}
	if got := s.Phases[afterShim]; math.Abs(got-50) > 0.001 {
		t.Errorf("%v ms after the shim, want 50", got)
	}
	if got := s.part("container"); math.Abs(got-510) > 0.001 {
		t.Errorf("the container's part is %v ms, want 510", got)
	}
}

func TestAStartThatCannotBeSplit(t *testing.T) {
	for name, change := range map[string]func(started, closed shimlog.Entry){
		"another clock": func(s, _ shimlog.Entry) { s["began"] = at(-10).Format(time.RFC3339Nano) },
		"no output":     func(_, c shimlog.Entry) { delete(c, "output_ms") },
		"no phase":      func(s, _ shimlog.Entry) { delete(s, "kernel_ms") },
		"too long":      func(s, _ shimlog.Entry) { s["agent_ms"] = "5000" },
	} {
		s, c := shimlog.Entry{}, shimlog.Entry{}
		for k, v := range started {
			s[k] = v
		}
		for k, v := range closed {
			c[k] = v
		}
		change(s, c)
		if err := new(sample).split(client, s, c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := timed(run{id: "c", began: began, ended: at(1)}); err == nil {
		t.Error("a container that wrote nothing was timed")
	}
}

func TestRoundedPhasesAddUpToTheRoundedTotal(t *testing.T) {
	s := sample{Phases: map[string]float64{}}
	for _, p := range phases {
		s.Phases[p.field] = 1.4
		s.Total += 1.4
	}
	sum := 0
	for _, n := range round(s) {
		sum += n
	}
	if want := int(math.Round(s.Total)); sum != want {
		t.Errorf("%d, want %d", sum, want)
	}
}

func TestSpread(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   spread
	}{
		{[]float64{3}, spread{3, 3, 3}},
		{[]float64{3, 1, 2}, spread{1, 2, 3}},
		{[]float64{4, 1, 3, 2}, spread{1, 2, 4}},
	} {
		if got := spreadOf(test.values); got != test.want {
			t.Errorf("%v: got %v, want %v", test.values, got, test.want)
		}
	}
	if got := middle([]sample{{Total: 9}, {Total: 1}, {Total: 5}}); got.Total != 5 {
		t.Errorf("the median run is that of %v", got.Total)
	}
}

func TestProcessesOfAContainer(t *testing.T) {
	entry := func(fsys fstest.MapFS, pid, parent int, pss string, command ...string) {
		dir := strconv.Itoa(pid) + "/"
		fsys[dir+"cmdline"] = &fstest.MapFile{Data: []byte(strings.Join(command, "\x00") + "\x00")}
		fsys[dir+"stat"] = &fstest.MapFile{Data: []byte(strconv.Itoa(pid) + " (a) b) S " + strconv.Itoa(parent) + " 1 1")}
		fsys[dir+"smaps_rollup"] = &fstest.MapFile{Data: []byte("00-ff ---p 0 00:00 0 [rollup]\nRss:  20 kB\nPss: " + pss + " kB\nPss_Anon: 1 kB\n")}
	}
	fsys := fstest.MapFS{}
	entry(fsys, 1, 0, "1", "init")
	entry(fsys, 20, 1, "10", "/usr/bin/containerd-shim-x", "-namespace", "moby", "-id", "abc", "-address", "/a")
	entry(fsys, 21, 20, "11", "/usr/bin/vmm", "-name", "abc")
	entry(fsys, 22, 21, "12", "sleep", "9")
	entry(fsys, 30, 1, "13", "/usr/bin/containerd-shim-x", "-id", "other")
	entry(fsys, 31, 30, "14", "sleep", "9")
	fsys["40/stat"] = &fstest.MapFile{Data: []byte("40 (kthread) S 2 0")}
	fsys["40/cmdline"] = &fstest.MapFile{}

	got, err := proc{fsys}.of("abc", []string{"sleep", "9"})
	if err != nil {
		t.Fatal(err)
	}
	want := []process{{"containerd-shim-x", 20, 10, false}, {"vmm", 20, 11, false}, {"sleep", 20, 12, true}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, err := (proc{fsys}).of("none", nil); err == nil {
		t.Error("a container without a shim has processes")
	}
}

func TestGuestMemory(t *testing.T) {
	m, err := guestMemoryOf("MemTotal:  1000000 kB\nMemFree: 900000 kB\nMemAvailable: 950000 kB\nHugePages_Total: 0\n", 1024)
	if err != nil || m != (guestMemory{VM: 1 << 20, Total: 1000000, Free: 900000, Available: 950000}) {
		t.Errorf("got %v, %v", m, err)
	}
	if _, err := guestMemoryOf("cat: no such file", 1024); err == nil {
		t.Error("no memory is no error")
	}
}

// report is one of a run of each of these runtimes beside runc.
func report(t *testing.T, names ...string) *figures {
	t.Helper()
	f := &figures{Conditions: conditions{Runs: 1, Note: "All of it on a boat."}}
	for i, name := range names {
		s, err := timed(client)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.split(client, started, closed); err != nil {
			t.Fatal(err)
		}
		f.Runtimes = append(f.Runtimes, &costs{
			Runtime: name, Starts: []sample{s}, Execs: []float64{700}, Processes: []process{{"shim", 1024, 1024, false}},
			Guest: &guest{
				Hypervisor: "qemu (emulation)", VM: strconv.Itoa(i+1) + " virtual CPUs, 512 MiB", CallsPerRun: 4, CallsPerExec: 2,
				Memory: guestMemory{VM: 1 << 20, Total: 1000000, Free: 900000, Available: 950000},
				Gate:   &gate{Image: "u", Rules: 200, Loop: 100, Without: []float64{1000, 1200}, With: []float64{1100, 1500}},
			},
		})
	}
	f.Runtimes = append(f.Runtimes, &costs{Runtime: "runc", Starts: []sample{{Total: 300, Whole: 500}}, Execs: []float64{200}, Processes: []process{{"sleep", 1024, 512, true}}})
	return f
}

func TestReports(t *testing.T) {
	for name, test := range map[string]struct {
		runtimes []string
		markdown []string
		text     []string
	}{
		"one": {
			[]string{"nanoclaw"},
			[]string{
				"|  | nanoclaw min | median | max | the median run | runc min | median | max |",
				"| total | 2000 | 2000 | 2000 | 2000 | 300 | 300 | 300 |",
				"| kernel | 900 | 900 | 900 | 900 | – | – | – |",
				"| nanoclaw | hypervisor qemu (emulation); the VM has 1 virtual CPUs, 512 MiB |",
				"| the VM has | 1024.0 |",
				"says what a host with KVM would show. All of it on a boat.",
			},
			[]string{"together; 1 beside the container's own"},
		},
		"two": {
			[]string{"nanoclaw-first", "nanoclaw-another"},
			[]string{
				"|  | nanoclaw-first min | median | max | the median run | nanoclaw-another min | median | max | the median run | runc min | median | max |",
				"| total | 2000 | 2000 | 2000 | 2000 | 2000 | 2000 | 2000 | 2000 | 300 | 300 | 300 |",
				"| kernel | 900 | 900 | 900 | 900 | 900 | 900 | 900 | 900 | – | – | – |",
				"| nanoclaw-another | hypervisor qemu (emulation); the VM has 2 virtual CPUs, 512 MiB |",
				"| nanoclaw-another | 700 | 700 | 700 |",
				"| nanoclaw-another | each docker exec … true | 2 |",
				"|  | nanoclaw-first | nanoclaw-another |",
				"| the VM has | 1024.0 | 1024.0 |",
				"| nanoclaw-another, image u, 2 times a loop of 100 | 1000 | 1000 | 1200 | 1100 | 1100 | 1500 | 1.10 | 1.10 | 200 |",
			},
			nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := report(t, test.runtimes...)
			var text, markdown, document bytes.Buffer
			for _, err := range []error{writeText(&text, f), writeMarkdown(&markdown, f), writeJSON(&document, f)} {
				if err != nil {
					t.Fatal(err)
				}
			}
			for _, want := range test.markdown {
				if !strings.Contains(markdown.String(), want) {
					t.Errorf("the Markdown lacks %q:\n%s", want, markdown.String())
				}
			}
			for _, want := range test.text {
				if !strings.Contains(text.String(), want) {
					t.Errorf("the text lacks %q:\n%s", want, text.String())
				}
			}
			for _, table := range tables(f) {
				for _, row := range table.rows {
					if len(row) != len(table.columns) {
						t.Errorf("%s: %d columns, but a line of %d: %q", table.title, len(table.columns), len(row), row)
					}
				}
			}
			path := filepath.Join(t.TempDir(), "report.json")
			if err := os.WriteFile(path, document.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			back, err := earlier(t.Context(), options{from: path})
			if err != nil {
				t.Fatal(err)
			}
			var again bytes.Buffer
			if err := writeMarkdown(&again, back); err != nil || again.String() != markdown.String() {
				t.Errorf("the JSON does not read back: %v:\n%s", err, again.String())
			}
		})
	}
}

// A group's name stands over its first column, and no name over another's.
func TestGroupsOfColumns(t *testing.T) {
	var text bytes.Buffer
	if err := writeText(&text, report(t, "a-runtime-with-a-name-longer-than-all-of-its-columns", "b")); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(text.String(), "\n")
	i := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "== docker run") })
	names, columns := lines[i+1], lines[i+2]
	for _, name := range []string{"a-runtime-with-a-name-longer-than-all-of-its-columns", " b ", " runc"} {
		at := strings.Index(names, name) + len(name) - len(strings.TrimLeft(name, " "))
		if at < 0 || !strings.HasPrefix(columns[at:], "min ") {
			t.Errorf("%q is not over its columns:\n%s\n%s", name, names, columns)
		}
	}
}

func TestWhatIsNoReport(t *testing.T) {
	of := func(change func(*figures)) string {
		f := report(t, "nanoclaw")
		change(f)
		var document bytes.Buffer
		if err := writeJSON(&document, f); err != nil {
			t.Fatal(err)
		}
		return document.String()
	}
	path := filepath.Join(t.TempDir(), "report.json")
	for name, content := range map[string]string{
		"nothing": "", "a list": "[]", "an empty one": "{}",
		"one runtime":              of(func(f *figures) { f.Runtimes = f.Runtimes[:1] }),
		"no runtime":               of(func(f *figures) { f.Runtimes[0] = nil }),
		"no starts":                of(func(f *figures) { f.Runtimes[1].Starts = nil }),
		"no execs":                 of(func(f *figures) { f.Runtimes[0].Execs = nil }),
		"no guest":                 of(func(f *figures) { f.Runtimes[0].Guest = nil }),
		"a guest of runc's":        of(func(f *figures) { f.Runtimes[1].Guest = &guest{} }),
		"a gate that has no times": of(func(f *figures) { f.Runtimes[0].Guest.Gate.With = nil }),
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := earlier(t.Context(), options{from: path}); err == nil {
			t.Errorf("%s is taken for a report", name)
		}
	}
}

func TestRuntimes(t *testing.T) {
	for list, want := range map[string][]string{
		"nanoclaw": {"nanoclaw"},
		"b,a":      {"b", "a"},
		"":         nil,
		"a,":       nil,
		"a,b,a":    nil,
		"a,runc":   nil,
	} {
		got, err := runtimes(list, "runc")
		if !slices.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%q: got %q, %v", list, got, err)
		}
	}
}
