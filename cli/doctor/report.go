package doctor

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// Status is what one finding means for containers.
type Status string

const (
	// OK is as it should be.
	OK Status = "ok"
	// Unused cannot be used here, and is not needed.
	Unused Status = "unused"
	// Warning does not keep containers from starting, but somebody should know.
	Warning Status = "warning"
	// Problem keeps containers from starting.
	Problem Status = "problem"
)

// Item is one finding.
type Item struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	// Found is what is so; Fix is what to do, where something can be done.
	Found string `json:"found"`
	Fix   string `json:"fix,omitempty"`
}

// Section is what was found about one part.
type Section struct {
	Name  string `json:"name"`
	Items []Item `json:"items"`
}

// Names by which others find a finding.
const (
	SectionHypervisor = "Hypervisor"
	SectionDocker     = "Docker"
	ItemDaemon        = "daemon"
)

func (s *Section) add(name string, status Status, fix, format string, args ...any) {
	s.Items = append(s.Items, Item{Name: name, Status: status, Found: fmt.Sprintf(format, args...), Fix: fix})
}

// Isolation is what stands around a container.
type Isolation string

const (
	// Hardware is a virtual machine of the processor's.
	Hardware Isolation = "hardware"
	// Emulation is none.
	Emulation Isolation = "none (emulation)"
	// NoVM is where no container can start.
	NoVM Isolation = "no virtual machine"
)

// Report is what was found about a host.
type Report struct {
	// Ready is whether containers can start.
	Ready bool `json:"ready"`
	// Hypervisor is the one that was chosen, or empty.
	Hypervisor string    `json:"hypervisor"`
	Isolation  Isolation `json:"isolation"`
	Sections   []Section `json:"sections"`
}

func (r *Report) problems() (n int) {
	for _, s := range r.Sections {
		for _, i := range s.Items {
			if i.Status == Problem {
				n++
			}
		}
	}
	return n
}

// Conclusion is the report in a sentence.
func (r *Report) Conclusion() string {
	switch n := r.problems(); {
	case !r.Ready && n == 1:
		return "Containers cannot start: 1 problem."
	case !r.Ready:
		return fmt.Sprintf("Containers cannot start: %d problems.", n)
	case r.Isolation == Emulation:
		return "Containers can start, BUT NOT ISOLATED: they are emulated, and emulation is no isolation."
	}
	return "Containers can start, each in a virtual machine of its own, run by " + r.Hypervisor + "."
}

var marks = map[Status]string{OK: "ok", Unused: "-", Warning: "WARNING", Problem: "PROBLEM"}

// Print writes the report for a person.
func (r *Report) Print(w io.Writer) error {
	var b bytes.Buffer
	for _, s := range r.Sections {
		fmt.Fprintf(&b, "%s\n", s.Name)
		for _, i := range s.Items {
			fmt.Fprintf(&b, "  %-8s %-20s %s\n", marks[i.Status], i.Name, indent(i.Found))
			if i.Fix != "" {
				fmt.Fprintf(&b, "  %-8s %-20s => %s\n", "", "", indent(i.Fix))
			}
		}
	}
	fmt.Fprintf(&b, "\n%s\n", r.Conclusion())
	_, err := w.Write(b.Bytes())
	return err
}

// indent puts further lines of a text below its first.
func indent(text string) string {
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+strings.Repeat(" ", 32))
}
