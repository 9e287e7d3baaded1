package verify

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// Print writes the report for a person.
func (r *Report) Print(w io.Writer) error {
	var b bytes.Buffer
	for _, c := range r.Results {
		mark := "ok"
		if !c.OK {
			mark = "FAILED"
		}
		fmt.Fprintf(&b, "%-7s %-8s %s\n", mark, c.Check, c.Claim)
		for _, found := range c.Found {
			fmt.Fprintf(&b, "%-7s %-8s => %s\n", "", "", strings.ReplaceAll(strings.TrimSpace(found), "\n", "\n"+strings.Repeat(" ", 20)))
		}
	}
	fmt.Fprintf(&b, "\n%s\n", r.conclusion())
	_, err := w.Write(b.Bytes())
	return err
}

func (r *Report) conclusion() string {
	switch {
	case r.Broken != "" && r.Noticed:
		return fmt.Sprintf("The control of %q was taken out on purpose, and that check alone failed: it is able to.", r.Broken)
	case r.Broken != "":
		return fmt.Sprintf("The control of %q was taken out on purpose, and not that check alone failed: DO NOT RELY ON THESE CHECKS.", r.Broken)
	case !r.OK:
		return "NOT ISOLATED as it should be; nothing that needs it should run on this host."
	case !r.Isolates:
		return "All checks passed, BUT NOTHING IS ISOLATED: " + r.Hypervisor + " emulates, and emulation is no isolation."
	}
	return "All checks passed, in VMs run by " + r.Hypervisor + "."
}
