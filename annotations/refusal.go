package annotations

import (
	"fmt"
	"strconv"
)

// Layer is where a rule came from.
type Layer string

const (
	// LayerBaseline is what is built in and needs no file.
	LayerBaseline Layer = "baseline"
	// LayerAnnotation is the container's own annotations.
	LayerAnnotation Layer = "annotation"
)

// Refusal is the error of everything that a policy forbids. Its text is for the
// person who typed the command.
type Refusal struct {
	// Rule names the rule, such as "mounts.refuse /etc"; Layer is where it came
	// from.
	Rule  string
	Layer Layer
	// What was asked for, such as "the mount /x -> /y"; Why it is refused; what
	// to do Instead.
	What, Why, Instead string
}

// Error is one sentence about what and why, one about what to do.
func (r *Refusal) Error() string {
	return fmt.Sprintf("nanoclaw refused %s: %s (rule %q of the %s); %s", r.What, r.Why, r.Rule, r.Layer, r.Instead)
}

// quote makes a foreign string safe and short enough for a message.
func quote(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strconv.Quote(s)
}
