package main

import (
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// table is one of the report's.
type table struct {
	title   string
	groups  []group
	columns []string
	rows    [][]string
	// note says what the reader must know to read it.
	note string
}

// group is a name over columns that belong together, up to where the next one
// begins.
type group struct {
	name string
	at   int
}

const none = "–"

func tables(f *figures) []table {
	list := []table{f.conditionsTable(), f.startTable(), f.execTable()}
	if slices.ContainsFunc(f.guests(), func(c *costs) bool { return c.Guest.Gate != nil }) {
		list = append(list, f.gateTable())
	}
	return append(list, f.callsTable(), f.processTable(), f.memoryTable(), f.sizeTable())
}

func (f *figures) conditionsTable() table {
	c := f.Conditions
	t := table{title: "Conditions", columns: []string{"", ""}, rows: [][]string{{"date", c.Date}, {"host", c.Host}, {"engine", c.Engine}}}
	var notes []string
	for _, one := range f.guests() {
		t.rows = append(t.rows, []string{one.Runtime, "hypervisor " + one.Guest.Hypervisor + "; the VM has " + one.Guest.VM})
	}
	if slices.ContainsFunc(f.guests(), func(c *costs) bool { return strings.Contains(c.Guest.Hypervisor, "emulation") }) {
		notes = append(notes, "Emulation runs a guest several times slower than hardware does: nothing here says what a host with KVM would show.")
	}
	if c.Note != "" {
		notes = append(notes, c.Note)
	}
	t.rows = append(t.rows,
		[]string{"image", c.Image}, []string{"network", c.Network},
		[]string{"runs of each", strconv.Itoa(c.Runs) + ", the runtimes in turn"},
		[]string{"load over 1, 5, 15 minutes, before", c.LoadBefore}, []string{"load, after", c.LoadAfter})
	t.note = strings.Join(notes, " ")
	return t
}

// startTable has a line for each part and each phase within. Where phases are
// known, the last of a runtime's columns is one run, whose lines add up.
func (f *figures) startTable() table {
	t := table{
		title:   "docker run: milliseconds to the first byte of the container's output",
		columns: []string{""},
		note: "Parts and phases are without gaps: in the median run, which is the one whose total is the median, they add up to the total. Medians do not add up. " +
			"The first byte of output stands for the container's first instruction: it comes later by what a process takes to start and write, for all runtimes alike.",
	}
	for _, c := range f.Runtimes {
		t.groups = append(t.groups, group{c.Runtime, len(t.columns)})
		t.columns = append(t.columns, "min", "median", "max")
		if c.Guest != nil {
			t.columns = append(t.columns, "the median run")
		}
	}
	for _, part := range parts() {
		of := f.startRow(part, false, func(s sample) float64 { return s.part(part) }, func(s sample) int {
			sum := 0
			for i, n := range round(s) {
				if phases[i].part == part {
					sum += n
				}
			}
			return sum
		})
		var within [][]string
		for i, p := range phases {
			if p.part == part {
				within = append(within, f.startRow("– "+p.what, false, func(s sample) float64 { return s.Phases[p.field] }, func(s sample) int { return round(s)[i] }))
			}
		}
		t.rows = append(t.rows, of)
		if len(within) > 1 {
			t.rows = append(t.rows, within...)
		}
		if part == "kernel" {
			t.rows = append(t.rows, f.startRow("– of it by the kernel's own clock, which firmware and loading precede", false,
				func(s sample) float64 { return s.KernelClock }, func(s sample) int { return int(math.Round(s.KernelClock)) }))
		}
	}
	t.rows = append(t.rows,
		f.startRow("total", true, func(s sample) float64 { return s.Total }, func(s sample) int {
			sum := 0
			for _, n := range round(s) {
				sum += n
			}
			return sum
		}),
		f.startRow("the whole command, with --rm", true, func(s sample) float64 { return s.Whole }, func(s sample) int { return int(math.Round(s.Whole)) }))
	return t
}

// startRow is one line about all runtimes, or about those that tell their
// phases: value is of any run, one of the median run.
func (f *figures) startRow(name string, all bool, value func(sample) float64, one func(sample) int) []string {
	row := []string{name}
	for _, c := range f.Runtimes {
		if c.Guest == nil && !all {
			row = append(row, none, none, none)
			continue
		}
		row = append(row, cells(collect(c.Starts, value))...)
		if c.Guest != nil {
			row = append(row, strconv.Itoa(one(middle(c.Starts))))
		}
	}
	return row
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
	t := table{title: "docker exec … true: milliseconds, the whole command", columns: []string{"", "min", "median", "max"}}
	for _, c := range f.Runtimes {
		t.rows = append(t.rows, append([]string{c.Runtime}, cells(c.Execs)...))
	}
	return t
}

func (f *figures) gateTable() table {
	t := table{
		title:   "The exec gate: microseconds for a start of " + program + " in the container",
		groups:  []group{{"without rules", 1}, {"with rules", 4}, {"times as long, by", 7}},
		columns: []string{"", "min", "median", "max", "min", "median", "max", "minima", "medians", "rules"},
		note: "From fork to the end that the shell waits for, by the guest's clock; two containers in turn, which differ in the rules. Where there are no rules there is no gate. " +
			"Target: at most 1.1 times as long with 200 rules.",
	}
	for _, c := range f.guests() {
		g := c.Guest.Gate
		if g == nil {
			continue
		}
		best, median := g.ratio()
		row := append([]string{fmt.Sprintf("%s, image %s, %d times a loop of %d", c.Runtime, g.Image, len(g.With), g.Loop)}, cells(g.Without)...)
		row = append(row, cells(g.With)...)
		t.rows = append(t.rows, append(row, fmt.Sprintf("%.2f", best), fmt.Sprintf("%.2f", median), strconv.Itoa(g.Rules)))
	}
	return t
}

func (f *figures) callsTable() table {
	t := table{
		title:   "Calls into the guest, counted by the shim",
		columns: []string{"runtime", "command", "calls", "target", "which"},
		note:    fmt.Sprintf("The power-off is among them. %s has no guest.", f.beside().Runtime),
	}
	for _, c := range f.guests() {
		t.rows = append(t.rows,
			[]string{c.Runtime, "docker run --rm … true", number(c.Guest.CallsPerRun), "≤ 6", c.Guest.RunMethods},
			[]string{c.Runtime, "each docker exec … true", number(c.Guest.CallsPerExec), "≤ 2", fmt.Sprintf("%s, of a container with %d execs, removed by force", c.Guest.ExecMethods, f.Conditions.Runs)})
	}
	return t
}

func (f *figures) processTable() table {
	t := table{
		title:   "Processes on the host for one idle container, MiB",
		columns: []string{"runtime", "process", "RSS", "PSS"},
		note: "PSS counts a page that several processes share in equal parts, so that it can be summed up; what each process maps of the guest's memory is such. " +
			"Target: at most 3 beside the container's own.",
	}
	for _, c := range f.Runtimes {
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
	t := table{
		title:   "Memory of the idle guest, MiB",
		columns: []string{""},
		note:    fmt.Sprintf("%s has no guest: its container uses the host's kernel.", f.beside().Runtime),
	}
	rows := [4][]string{
		{"the VM has"},
		{"its kernel keeps for itself from the start (VM - MemTotal)"},
		{"in use beside that, cache included (MemTotal - MemFree)"},
		{"not available to the container (MemTotal - MemAvailable), with what the kernel holds back"},
	}
	for _, c := range f.guests() {
		t.columns = append(t.columns, c.Runtime)
		m := c.Guest.Memory
		for i, kib := range []int64{m.VM, m.VM - m.Total, m.Total - m.Free, m.Total - m.Available} {
			rows[i] = append(rows[i], mib(kib))
		}
	}
	t.rows = rows[:]
	return t
}

func (f *figures) sizeTable() table {
	t := table{title: "Sizes, bytes", columns: []string{"file", "size"}, note: "All containers use the same files."}
	for _, file := range f.Sizes {
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

// widths are those of the columns in characters: what is in them fits, and so do
// the groups' names over them.
func (t *table) widths() []int {
	widths := make([]int, len(t.columns))
	for _, row := range append([][]string{t.columns}, t.rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for i, g := range t.groups {
		end := len(widths)
		if i+1 < len(t.groups) {
			end = t.groups[i+1].at
		}
		if lack := utf8.RuneCountInString(g.name) + 2 - columnsWidth(widths[g.at:end]); lack > 0 {
			widths[end-1] += lack
		}
	}
	return widths
}

// columnsWidth is what columns take of a line, with what is between them.
func columnsWidth(widths []int) int {
	sum := 0
	for _, n := range widths {
		sum += n + 2
	}
	return sum
}

func writeText(w io.Writer, f *figures) error {
	for _, t := range tables(f) {
		widths := t.widths()
		all := append([][]string{t.columns}, t.rows...)
		var b strings.Builder
		fmt.Fprintf(&b, "== %s\n", t.title)
		names := ""
		for _, g := range t.groups {
			names += strings.Repeat(" ", columnsWidth(widths[:g.at])-utf8.RuneCountInString(names)) + "  " + g.name
		}
		if names != "" {
			b.WriteString(names + "\n")
		}
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
		columns := slices.Clone(t.columns)
		for _, g := range t.groups {
			columns[g.at] = g.name + " " + columns[g.at]
		}
		writeRow(columns)
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
