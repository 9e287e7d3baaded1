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
	Allow:    gateLabelBitLABEL_ALLOW,
	Deny:     gateLabelBitLABEL_DENY,
	Hide:     gateLabelBitLABEL_HIDE,
	Ask:      gateLabelBitLABEL_ASK,
	ReadOnly: gateLabelBitLABEL_READONLY,
}

var argDecisions = map[Action]gateDecision{
	Allow: gateDecisionDECISION_ALLOW,
	Deny:  gateDecisionDECISION_DENY,
	// Its name is known by then.
	Hide: gateDecisionDECISION_DENY,
	Ask:  gateDecisionDECISION_ASK,
}

// compile makes one label of all the rules about a file. Rules are told of by
// their number from 1 on.
func compile(p *Policy, numbers []int, id uint32) (compiled, error) {
	// The strictest counts, and is the one that is told of.
	numbers = slices.Clone(numbers)
	slices.SortStableFunc(numbers, func(a, b int) int { return cmp.Compare(p.Rules[a].Action, p.Rules[b].Action) })
	c := compiled{label: gateLabel{Id: id}, words: make(map[uint64]uint64)}
	bits := gateLabelBit(0)
	next := 0
	for _, n := range numbers {
		r := &p.Rules[n]
		if len(r.Args) == 0 {
			bits |= plainBits[r.Action]
			if c.label.Rule == 0 {
				c.label.Rule = uint32(n) + 1
			}
			continue
		}
		if c.set == nil {
			c.set = &gateArgset{}
			c.label.Args = id
		}
		if int(c.set.Count) == len(c.set.Rules) {
			return c, fmt.Errorf("more than %d rules about arguments of one program, the last of them %s", len(c.set.Rules), r.label())
		}
		rule := gateArgRule{Action: uint32(argDecisions[r.Action]), Rule: uint32(n) + 1}
		for _, word := range r.Args {
			h := hash(word)
			if c.words[h] == 0 {
				if next == 64 {
					return c, fmt.Errorf("more than 64 words in rules about arguments of one program, the last of them %s", r.label())
				}
				c.words[h] = 1 << next
				next++
			}
			rule.Need |= c.words[h]
		}
		c.set.Rules[c.set.Count] = rule
		c.set.Count++
		bits |= gateLabelBitLABEL_ARGS
		if r.Action == Allow {
			bits |= gateLabelBitLABEL_ALLOW_ARGS
		}
	}
	c.label.Bits = uint32(bits)
	return c, nil
}
