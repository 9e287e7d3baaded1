package execgate

import (
	"cmp"
	"fmt"
	"slices"
)

// compiled is what the kernel is told about one file: the label, and for rules about
// arguments the set of them and a bit for each word that they need.
type compiled struct {
	label gateLabel
	set   *gateArgset
	words map[uint64]uint64
	// bits is how many of the set's are used.
	bits int
}

// hash is the FNV-1a that the programs compute byte by byte.
func hash(word string) uint64 {
	h := uint64(0xcbf29ce484222325)
	for _, c := range []byte(word) {
		h = (h ^ uint64(c)) * 0x100000001b3
	}
	return h
}

var plainBits = map[Action]gateLabelBit{
	Deny:     gateLabelBitLABEL_DENY,
	Hide:     gateLabelBitLABEL_HIDE,
	Ask:      gateLabelBitLABEL_ASK,
	ReadOnly: gateLabelBitLABEL_READONLY,
}

var argDecisions = map[Action]gateDecision{
	InList: gateDecisionDECISION_ALLOW,
	Deny:   gateDecisionDECISION_DENY,
	// Its name is known by then.
	Hide:     gateDecisionDECISION_DENY,
	Ask:      gateDecisionDECISION_ASK,
	ReadOnly: gateDecisionDECISION_READONLY,
}

// compile makes one label of all the rules about a file. The kernel tells of
// rules by their number from 1 on.
func compile(p *Policy, numbers []int, trusted bool, id uint32) (compiled, error) {
	// The strictest counts, and is the one that is told of.
	numbers = slices.Clone(numbers)
	slices.SortStableFunc(numbers, func(a, b int) int { return cmp.Compare(p.Rules[a].Action, p.Rules[b].Action) })
	c := compiled{label: gateLabel{Id: id}}
	if trusted {
		// The engine's own program, which nobody lists.
		c.add(gateLabelBitLABEL_TRUSTED | gateLabelBitLABEL_KEPT)
		c.label.Lists = ^uint32(0)
	}
	for _, n := range numbers {
		r := &p.Rules[n]
		if len(r.Argv) > 0 {
			if err := c.arg(r, uint32(n)+1); err != nil {
				return c, err
			}
		} else {
			c.plain(r, uint32(n)+1)
		}
		c.keep(p, r, uint32(n)+1)
	}
	return c, nil
}

// keep has the file stay what it is: it is not changed, and where what it may do
// depends on how it is run, not run in another way.
func (c *compiled) keep(p *Policy, r *Rule, number uint32) {
	bits, would := gateLabelBitLABEL_KEPT, r.Would
	switch {
	case r.Action == InList:
		would = p.Lists[r.List].Would
	case r.Action == ReadOnly || len(r.Argv) > 0:
		bits |= gateLabelBitLABEL_GUARDED
	}
	if !would {
		c.add(bits)
		return
	}
	c.label.Would |= uint32(bits)
	c.label.WouldRule = cmp.Or(c.label.WouldRule, number)
}

func (c *compiled) add(bits gateLabelBit) { c.label.Bits |= uint32(bits) }

func (c *compiled) plain(r *Rule, number uint32) {
	switch {
	case r.Action == InList:
		c.label.Lists |= 1 << r.List
	case r.Would:
		c.label.Would |= uint32(plainBits[r.Action])
		c.label.WouldRule = cmp.Or(c.label.WouldRule, number)
	default:
		c.add(plainBits[r.Action])
		c.label.Rule = cmp.Or(c.label.Rule, number)
	}
}

func (c *compiled) arg(r *Rule, number uint32) error {
	if c.set == nil {
		c.set, c.words = &gateArgset{}, make(map[uint64]uint64)
		c.label.Args = c.label.Id
		c.add(gateLabelBitLABEL_ARGS)
	}
	if int(c.set.Count) == len(c.set.Rules) {
		return fmt.Errorf("there are more than %d rules about arguments of one program, one of them %s", len(c.set.Rules), r.label())
	}
	if c.bits+len(r.Argv) > 64 {
		return fmt.Errorf("rules about arguments of one program have more than 64 words, among them those of %s", r.label())
	}
	rule := gateArgRule{Action: uint32(argDecisions[r.Action]), Rule: number}
	switch {
	case r.Would:
		rule.Would = 1
	case r.Action != InList:
		c.set.Firm++
	}
	c.set.First |= 1 << c.bits
	for _, word := range r.Argv {
		c.words[hash(word)] |= 1 << c.bits
		rule.Last = 1 << c.bits
		c.bits++
	}
	if r.Action == InList {
		rule.Lists = 1 << r.List
		c.label.ArgLists |= rule.Lists
	} else if !r.Would {
		// Told of where the file is read or mapped.
		c.label.Rule = cmp.Or(c.label.Rule, number)
	}
	c.set.Rules[c.set.Count] = rule
	c.set.Count++
	return nil
}
