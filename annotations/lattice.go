package annotations

import (
	"slices"
	"strings"
)

// rules is what one layer restricts, or several together. Its zero value
// restricts nothing. Rules form a meet-semilattice: meet is commutative,
// associative and idempotent, and what meet returns forbids all that either of
// the two forbids. That is all there is to "a policy only narrows".
//
// A slice is either a union (what is denied, asked, hidden, read-only) or a
// conjunction of closed lists (each must contain what is asked for); both grow.
// Slices are sorted and without duplicates, so that equal rules are equal
// values and have one digest.
type rules struct {
	mode modeRule
	// tools, secrets and sources are closed lists of names.
	tools, secrets []nameList
	readonlyTools  []nameRule
	exec           Exec
	network        Network
	sources        []SourceList
	allow          []Allow
	readonly       []Readonly
	hide           []Hide
	limits         Limits
}

// modeRule is a layer's word on the mode; empty: none.
type modeRule struct {
	Mode Mode
	Origin
}

// nameRule is a name, or "*".
type nameRule struct {
	Name string
	Origin
}

func (r nameRule) key() string { return r.Name }

// nameList is a closed list of names.
type nameList struct {
	Names []nameRule
	Origin
}

func (l nameList) key() string { return keysOf(l.Names) }

func (l nameList) has(name string) bool {
	return slices.ContainsFunc(l.Names, func(n nameRule) bool { return n.Name == name })
}

// lackedBy returns the first list that does not have the name.
func lackedBy(lists []nameList, name string) *nameList {
	for i := range lists {
		if !lists[i].has(name) {
			return &lists[i]
		}
	}
	return nil
}

func (r rules) meet(o rules) rules {
	r.mode = r.mode.meet(o.mode)
	r.tools = unite(r.tools, o.tools)
	r.secrets = unite(r.secrets, o.secrets)
	r.readonlyTools = unite(r.readonlyTools, o.readonlyTools)
	r.exec = r.exec.meet(o.exec)
	r.network = r.network.meet(o.network)
	r.sources = unite(r.sources, o.sources)
	r.allow = unite(r.allow, o.allow)
	r.readonly = unite(r.readonly, o.readonly)
	r.hide = unite(r.hide, o.hide)
	r.limits = r.limits.meet(o.limits)
	return r
}

func (m modeRule) meet(o modeRule) modeRule {
	mode, from := stricter([]Mode{"", ModeAudit, ModeEnforce}, m.Mode, &m.Origin, o.Mode, &o.Origin)
	return modeRule{mode, *from}
}

func (e Exec) meet(o Exec) Exec {
	e.Mode, e.From = stricter(execModes, e.Mode, e.From, o.Mode, o.From)
	e.Allow = unite(e.Allow, o.Allow)
	e.Deny = unite(e.Deny, o.Deny)
	e.Ask = unite(e.Ask, o.Ask)
	e.Readonly = unite(e.Readonly, o.Readonly)
	return e
}

func (n Network) meet(o Network) Network {
	n.Mode, n.From = stricter(networkModes, n.Mode, n.From, o.Mode, o.From)
	n.Allow = unite(n.Allow, o.Allow)
	n.Deny = unite(n.Deny, o.Deny)
	n.Ask = unite(n.Ask, o.Ask)
	n.Readonly = unite(n.Readonly, o.Readonly)
	return n
}

func (l Limits) meet(o Limits) Limits {
	return Limits{
		CPUs: smaller(l.CPUs, o.CPUs), Memory: smaller(l.Memory, o.Memory),
		Pids: smaller(l.Pids, o.Pids), Lifetime: smaller(l.Lifetime, o.Lifetime),
	}
}

func smaller(a, b *Limit) *Limit {
	switch {
	case a == nil:
		return b
	case b == nil, a.Value < b.Value:
		return a
	case b.Value < a.Value, b.compare(a.Origin) < 0:
		return b
	}
	return a
}

// stricter returns the later of two values in an order, with its origin. What
// is not in the order, such as the empty value, is before all that is.
func stricter[T comparable](order []T, a T, from *Origin, b T, origin *Origin) (T, *Origin) {
	i, j := slices.Index(order, a), slices.Index(order, b)
	switch {
	case i > j, i == j && origin == nil:
		return a, from
	case i < j, from == nil:
		return b, origin
	case origin.compare(*from) < 0:
		return b, origin
	}
	return a, from
}

// rule is what can be an element of a set of rules.
type rule interface {
	key() string
	from() Origin
}

// unite returns the elements of both, each once: of several that say the same
// the one of the earliest layer stays.
func unite[T rule](a, b []T) []T {
	all := append(slices.Clone(a), b...)
	slices.SortStableFunc(all, func(x, y T) int {
		if c := strings.Compare(x.key(), y.key()); c != 0 {
			return c
		}
		return x.from().compare(y.from())
	})
	return slices.CompactFunc(all, func(x, y T) bool { return x.key() == y.key() })
}

// canonical sorts a list that a person wrote, and leaves each element once.
func canonical[T rule](a []T) []T { return unite(a, nil) }

func keysOf[T rule](a []T) string {
	keys := make([]string, len(a))
	for i, x := range a {
		keys[i] = x.key()
	}
	return strings.Join(keys, "\n")
}
