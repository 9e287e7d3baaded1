package execgate

import (
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
)

// Limits of a policy.
const (
	maxRules    = 4096
	maxLists    = 16
	maxTrusted  = 64
	maxArgs     = 32
	maxArg      = 1024
	maxPath     = 4096
	maxText     = 1024
	digestBytes = 32
)

// Action is what a rule does.
type Action uint8

// The actions, the strictest first.
const (
	Hide Action = iota
	Deny
	Ask
	// ReadOnly: it runs, and neither it nor what it starts changes a file.
	ReadOnly
	// InList: it is in a closed list.
	InList
)

// Reason is why something is forbidden.
type Reason struct {
	// Rule and Origin name it; Why and Instead are for people.
	Rule, Origin, Why, Instead string
	// Would: it is recorded and not enforced.
	Would bool
}

// Rule is about the files at one path.
type Rule struct {
	Action Action
	// Path is absolute, in the container, with patterns.
	Path string
	// Argv: the rule holds when the arguments contain these in this order.
	Argv []string
	// SHA256, unless it is nil, is the content that the rule is about.
	SHA256 []byte
	// List is the number of the list, of InList.
	List int
	Reason
}

// Policy is what a container is held to.
type Policy struct {
	// Image, unless it is nil, is why code comes from the image alone.
	Image *Reason
	// ImageTime is when files of the root file system began not to be the
	// image's.
	ImageTime time.Time
	// Trusted are files that count as the image's.
	Trusted []string
	// Lists are the closed lists.
	Lists []Reason
	Rules []Rule
	// UserNamespaces, Mounts and Ptrace are what the container may do although
	// it has a gate.
	UserNamespaces, Mounts, Ptrace bool
	// RecordAllowed: programs that may run are recorded as well, each once.
	RecordAllowed bool
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("exec gate: "+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// FromRequest reads what the host asks for. Nil means that there is no gate to
// be.
func FromRequest(in *agent.ExecGate) (*Policy, error) {
	if in == nil {
		return nil, nil
	}
	p := &Policy{
		Trusted:        in.GetTrusted(),
		UserNamespaces: in.GetUserNamespaces(),
		Mounts:         in.GetMounts(),
		Ptrace:         in.GetPtrace(),
		RecordAllowed:  in.GetRecordAllowed(),
	}
	if in.GetImage() != nil {
		if in.GetImageTime() <= 0 {
			return nil, invalid("the host does not say which files came with the image")
		}
		r, err := reason(in.GetImage())
		if err != nil {
			return nil, err
		}
		p.Image, p.ImageTime = &r, time.Unix(0, in.GetImageTime())
	}
	if n := len(in.GetRules()); n > maxRules {
		return nil, invalid("%d rules are over %d", n, maxRules)
	}
	if n := len(in.GetLists()); n > maxLists {
		return nil, invalid("%d lists are over %d", n, maxLists)
	}
	if n := len(in.GetTrusted()); n > maxTrusted {
		return nil, invalid("%d trusted files are over %d", n, maxTrusted)
	}
	for _, name := range in.GetTrusted() {
		if err := checkPath(name); err != nil {
			return nil, err
		}
	}
	for _, l := range in.GetLists() {
		r, err := reason(l)
		if err != nil {
			return nil, err
		}
		p.Lists = append(p.Lists, r)
	}
	for _, r := range in.GetRules() {
		rule, err := ruleFromRequest(r)
		if err == nil && rule.Action == InList && rule.List >= len(p.Lists) {
			err = invalid("there is no list %d", rule.List)
		}
		if err != nil {
			return nil, fmt.Errorf("rule %.80q: %w", r.GetReason().GetRule(), err)
		}
		p.Rules = append(p.Rules, rule)
	}
	return p, nil
}

func reason(in *agent.ExecReason) (Reason, error) {
	r := Reason{Rule: in.GetRule(), Origin: in.GetOrigin(), Why: in.GetWhy(), Instead: in.GetInstead(), Would: in.GetWould()}
	for _, s := range []string{r.Rule, r.Origin, r.Why, r.Instead} {
		if len(s) > maxText {
			return r, invalid("a text is over %d bytes", maxText)
		}
	}
	return r, nil
}

func checkPath(name string) error {
	if len(name) > maxPath || !path.IsAbs(name) || strings.ContainsRune(name, 0) {
		return invalid("path %.80q is not absolute, or too long", name)
	}
	return nil
}

var actions = map[agent.ExecRule_Action]Action{
	agent.ExecRule_ACTION_LIST:     InList,
	agent.ExecRule_ACTION_DENY:     Deny,
	agent.ExecRule_ACTION_HIDE:     Hide,
	agent.ExecRule_ACTION_ASK:      Ask,
	agent.ExecRule_ACTION_READONLY: ReadOnly,
}

func ruleFromRequest(in *agent.ExecRule) (Rule, error) {
	why, err := reason(in.GetReason())
	if err != nil {
		return Rule{}, err
	}
	r := Rule{Path: in.GetPath(), Argv: in.GetArgv(), List: int(in.GetList()), Reason: why}
	action, known := actions[in.GetAction()]
	if !known {
		return r, invalid("action %d is not known", in.GetAction())
	}
	r.Action = action
	if err := checkPath(r.Path); err != nil {
		return r, err
	}
	if len(r.Argv) > maxArgs {
		return r, invalid("more than %d arguments", maxArgs)
	}
	for _, a := range r.Argv {
		if len(a) > maxArg || strings.ContainsRune(a, 0) {
			return r, invalid("argument %.80q is too long or has a zero byte", a)
		}
	}
	if s := in.GetSha256(); s != "" {
		sum, err := hex.DecodeString(s)
		if err != nil || len(sum) != digestBytes {
			return r, invalid("%.80q is no SHA-256 in hexadecimal", s)
		}
		r.SHA256 = sum
	}
	return r, nil
}

// Needed reports whether there is anything for a gate to do. A container that
// nothing restricts pays for nothing.
func (p *Policy) Needed() bool {
	return p != nil && (p.Image != nil || len(p.Lists) > 0 || len(p.Rules) > 0 || p.RecordAllowed)
}

// records reports whether nothing of it is enforced, and all is recorded.
func (p *Policy) records() bool {
	if p.Image != nil && !p.Image.Would {
		return false
	}
	return !slices.ContainsFunc(p.Lists, func(l Reason) bool { return !l.Would }) &&
		!slices.ContainsFunc(p.Rules, func(r Rule) bool { return r.Action != InList && !r.Would })
}

func (p *Policy) has(a Action) bool {
	for i := range p.Rules {
		if p.Rules[i].Action == a {
			return true
		}
	}
	return false
}

func (p *Policy) hasArgv() bool {
	for i := range p.Rules {
		if len(p.Rules[i].Argv) > 0 {
			return true
		}
	}
	return false
}
