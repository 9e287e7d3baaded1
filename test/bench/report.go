package main

import (
	"fmt"
	"io"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"
)

// table is one of the report's.
type table struct {
	title   string
	columns []string
	rows    [][]string
	// note says what the reader must know to read it.
	note string
}

const none = "–"

func tables(f *figures) []table {
	return []table{f.conditionsTable(), f.startTable(), f.execTable(), f.callsTable(), f.processTable(), f.memoryTable(), f.sizeTable()}
}

func (f *figures) conditionsTable() table {
	c := f.Conditions
	isolation := ""
	if strings.Contains(c.Hypervisor, "emulation") {
		isolation = "Emulation runs a guest several times slower than hardware does: nothing here says what a host with KVM would show."
	}
	return table{
		title:   "Conditions",
		columns: []string{"", ""},
		rows: [][]string{
			{"date", c.Date}, {"host", c.Host}, {"engine", c.Engine},
			{"hypervisor", c.Hypervisor}, {"VM", c.VM}, {"image", c.Image}, {"network", c.Network},
			{"runs of each", strconv.Itoa(c.Runs) + ", the runtimes in turn"},
			{"load over 1, 5, 15 minutes, before", c.LoadBefore}, {"load, after", c.LoadAfter},
		},
		note: isolation,
	}
}

// startTable has a line for each part and each phase within. The last column is
// one run, whose lines add up.
func (f *figures) startTable() table {
	t := table{
		title:   "docker run: milliseconds to the first byte of the container's output",
		columns: []string{"", f.Ours.Runtime + " min", "median", "max", "the median run", f.Theirs.Runtime + " min", "median", "max"},
		note: "Parts and phases are without gaps: in the median run, which is the one whose total is the median, they add up to the total. Medians do not add up. " +
			"The first byte of output stands for the container's first instruction: it comes later by what a process takes to start and write, for both runtimes alike.",
	}
	median := middle(f.Ours.Starts)
	rounded := round(median)
	line := func(name string, value func(sample) float64, one int) []string {
		return append(append([]string{name}, cells(collect(f.Ours.Starts, value))...), strconv.Itoa(one))
	}
	absent := []string{none, none, none}
	for _, part := range parts() {
		var within [][]string
		sum := 0
		for i, p := range phases {
			if p.part != part {
				continue
			}
			sum += rounded[i]
			within = append(within, append(line("– "+p.what, func(s sample) float64 { return s.Phases[p.field] }, rounded[i]), absent...))
		}
		t.rows = append(t.rows, append(line(part, func(s sample) float64 { return s.part(part) }, sum), absent...))
		if len(within) > 1 {
			t.rows = append(t.rows, within...)
		}
		if part == "kernel" {
			row := line("– of it by the kernel's own clock, which firmware and loading precede", func(s sample) float64 { return s.KernelClock }, int(math.Round(median.KernelClock)))
			t.rows = append(t.rows, append(row, absent...))
		}
	}
	both := func(name string, value func(sample) float64, one int) {
		t.rows = append(t.rows, append(line(name, value, one), cells(collect(f.Theirs.Starts, value))...))
	}
	total := 0
	for _, n := range rounded {
		total += n
	}
	both("total", func(s sample) float64 { return s.Total }, total)
	both("the whole command, with --rm", func(s sample) float64 { return s.Whole }, int(math.Round(median.Whole)))
	return t
}

// round returns a sample's phases in whole milliseconds that add up to the
// rounded total: ends are rounded, not lengths.
func round(s sample) []int {
	list := make([]int, len(phases))
	sum, before := 0.0, 0
	for i, p := range phases {
		sum += s.Phases[p.field]
		end := int(math.Round(sum))
		list[i], before = end-before, end
	}
	return list
}

func (f *figures) execTable() table {
	return table{
		title:   "docker exec … true: milliseconds, the whole command",
		columns: []string{"", "min", "median", "max"},
		rows: [][]string{
			append([]string{f.Ours.Runtime}, cells(f.Ours.Execs)...),
			append([]string{f.Theirs.Runtime}, cells(f.Theirs.Execs)...),
		},
	}
}

func (f *figures) callsTable() table {
	return table{
		title:   "Calls into the guest, counted by the shim",
		columns: []string{"", "calls", "target", "which"},
		rows: [][]string{
			{"docker run --rm … true", number(f.Guest.CallsPerRun), "≤ 6", f.Guest.RunMethods},
			{"each docker exec … true", number(f.Guest.CallsPerExec), "≤ 2", fmt.Sprintf("%s, of a container with %d execs, removed by force", f.Guest.ExecMethods, f.Conditions.Runs+1)},
		},
		note: fmt.Sprintf("The power-off is among them. %s has no guest.", f.Theirs.Runtime),
	}
}

func (f *figures) processTable() table {
	t := table{
		title:   "Processes on the host for one idle container, MiB",
		columns: []string{"runtime", "process", "RSS", "PSS"},
		note: "PSS counts a page that several processes share in equal parts, so that it can be summed up; what each process maps of the guest's memory is such. " +
			"Target: at most 3 beside the container's own.",
	}
	for _, c := range []costs{f.Ours, f.Theirs} {
		n, pss := 0, int64(0)
		for _, p := range c.Processes {
			name := p.Name
			if p.Own {
				name += " (the container's own)"
			} else {
				n++
			}
			pss += p.PSS
			t.rows = append(t.rows, []string{c.Runtime, name, mib(p.RSS), mib(p.PSS)})
		}
		t.rows = append(t.rows, []string{c.Runtime, fmt.Sprintf("together; %d beside the container's own", n), none, mib(pss)})
	}
	return t
}

func (f *figures) memoryTable() table {
	m := f.Guest.Memory
	return table{
		title:   "Memory of the idle guest, MiB",
		columns: []string{"", ""},
		rows: [][]string{
			{"the VM has", mib(m.VM)},
			{"its kernel keeps for itself from the start (VM - MemTotal)", mib(m.VM - m.Total)},
			{"in use beside that, cache included (MemTotal - MemFree)", mib(m.Total - m.Free)},
			{"not available to the container (MemTotal - MemAvailable), with what the kernel holds back", mib(m.Total - m.Available)},
		},
		note: fmt.Sprintf("%s has no guest: its container uses the host's kernel.", f.Theirs.Runtime),
	}
}

func (f *figures) sizeTable() table {
	t := table{title: "Sizes, bytes", columns: []string{"file", "size"}, note: "All containers use the same files."}
	for _, file := range append(f.Sizes, f.TheirSizes...) {
		t.rows = append(t.rows, []string{filepath.Base(file.Path), strconv.FormatInt(file.Bytes, 10)})
	}
	return t
}

// cells are min, median and max in whole numbers.
func cells(values []float64) []string {
	s := spreadOf(values)
	return []string{fmt.Sprintf("%.0f", s.Min), fmt.Sprintf("%.0f", s.Median), fmt.Sprintf("%.0f", s.Max)}
}

func number(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }

func mib(kib int64) string { return fmt.Sprintf("%.1f", float64(kib)/1024) }

func writeText(w io.Writer, f *figures) error {
	for _, t := range tables(f) {
		widths := make([]int, len(t.columns))
		all := append([][]string{t.columns}, t.rows...)
		for _, row := range all {
			for i, cell := range row {
				widths[i] = max(widths[i], utf8.RuneCountInString(cell))
			}
		}
		var b strings.Builder
		fmt.Fprintf(&b, "== %s\n", t.title)
		for _, row := range all {
			line := ""
			for i, cell := range row {
				line += "  " + cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			}
			if line = strings.TrimRight(line, " "); line != "" {
				b.WriteString(line + "\n")
			}
		}
		if t.note != "" {
			fmt.Fprintf(&b, "  (%s)\n", t.note)
		}
		if _, err := fmt.Fprintln(w, b.String()); err != nil {
			return err
		}
	}
	return nil
}

func writeMarkdown(w io.Writer, f *figures) error {
	for _, t := range tables(f) {
		var b strings.Builder
		fmt.Fprintf(&b, "### %s\n\n", t.title)
		writeRow := func(row []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | ")) }
		writeRow(t.columns)
		b.WriteString(strings.Repeat("|---", len(t.columns)) + "|\n")
		for _, row := range t.rows {
			writeRow(row)
		}
		if t.note != "" {
			fmt.Fprintf(&b, "\n%s\n", t.note)
		}
		if _, err := fmt.Fprintln(w, b.String()); err != nil {
			return err
		}
	}
	return nil
}
