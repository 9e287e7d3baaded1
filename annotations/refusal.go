package annotations

import (
	"fmt"
	"strconv"
)

// Refusal is the error of everything that a policy forbids. Its text is for the
// person who typed the command.
type Refusal struct {
	// Rule names the rule, such as "mounts.refuse /etc"; the Origin is where it
	// came from.
	Rule string
	Origin
	// What was asked for, such as "the mount /x -> /y"; Why it is refused; what
	// to do Instead.
	What, Why, Instead string
}

// Error is one sentence about what and why, one about what to do.
func (r *Refusal) Error() string {
	from := r.Origin
	if from.Where == r.Rule {
		from.Where = ""
	}
	return fmt.Sprintf("nanoclaw refused %s: %s (rule %q of the %s); %s", r.What, r.Why, r.Rule, from.Describe(), r.Instead)
}

// quote makes a foreign string safe and short enough for a message.
func quote(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strconv.Quote(s)
}
