package execgate

import (
	"encoding/hex"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
)

// Limits of a policy.
const (
	maxRules    = 4096
	maxArgs     = 32
	maxArg      = 1024
	maxPath     = 4096
	maxText     = 1024
	digestBytes = 32
)

// Mode says which programs may run that no rule is about.
type Mode uint8

// The modes.
const (
	// Any: all of them.
	Any Mode = iota
	// Image: those that came with the image.
	Image
	// Allowlist: none.
	Allowlist
)

// Action is what a rule does.
type Action uint8

// The actions, the strictest first.
const (
	Hide Action = iota
	Deny
	Ask
	ReadOnly
	Allow
)

// Rule is about the files at one path.
type Rule struct {
	Action Action
	// Path is absolute, in the container, with patterns.
	Path string
	// Args: the rule holds when each of these is an argument.
	Args []string
	// SHA256, unless it is nil, is the content that the rule is about.
	SHA256 []byte
	// Name, Origin and Instead are for people and records.
	Name, Origin, Instead string
}

// Policy is what a container is held to.
type Policy struct {
	Mode  Mode
	Audit bool
	Rules []Rule
	// ImageTime is when files of the root file system began not to be the
	// image's; the zero time if that is not known.
	ImageTime time.Time
	// UserNamespaces, Mounts and Ptrace are what the container may do although
	// it has a gate.
	UserNamespaces, Mounts, Ptrace bool
	// RecordAllowed: programs that may run are recorded as well.
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
		Audit:          in.GetAudit(),
		UserNamespaces: in.GetUserNamespaces(),
		Mounts:         in.GetMounts(),
		Ptrace:         in.GetPtrace(),
		RecordAllowed:  in.GetRecordAllowed(),
	}
	switch in.GetMode() {
	case agent.ExecGate_MODE_ANY:
		p.Mode = Any
	case agent.ExecGate_MODE_IMAGE:
		p.Mode = Image
	case agent.ExecGate_MODE_ALLOWLIST:
		p.Mode = Allowlist
	default:
		return nil, invalid("mode %d is not known", in.GetMode())
	}
	if t := in.GetImageTime(); t > 0 {
		p.ImageTime = time.Unix(0, t)
	}
	if p.Mode != Any && p.ImageTime.IsZero() {
		return nil, invalid("the mode needs to know which files came with the image, and the host cannot tell")
	}
	if n := len(in.GetRules()); n > maxRules {
		return nil, invalid("%d rules are over %d", n, maxRules)
	}
	for i, r := range in.GetRules() {
		rule, err := ruleFromRequest(r)
		if err != nil {
			return nil, fmt.Errorf("rule %d, %.80q: %w", i, r.GetName(), err)
		}
		p.Rules = append(p.Rules, rule)
	}
	return p, nil
}

var actions = map[agent.ExecRule_Action]Action{
	agent.ExecRule_ACTION_ALLOW:    Allow,
	agent.ExecRule_ACTION_DENY:     Deny,
	agent.ExecRule_ACTION_HIDE:     Hide,
	agent.ExecRule_ACTION_ASK:      Ask,
	agent.ExecRule_ACTION_READONLY: ReadOnly,
}

func ruleFromRequest(in *agent.ExecRule) (Rule, error) {
	r := Rule{
		Path: in.GetPath(), Args: in.GetArgs(),
		Name: in.GetName(), Origin: in.GetOrigin(), Instead: in.GetInstead(),
	}
	action, known := actions[in.GetAction()]
	if !known {
		return r, invalid("action %d is not known", in.GetAction())
	}
	r.Action = action
	if len(r.Path) > maxPath || !path.IsAbs(r.Path) || strings.ContainsRune(r.Path, 0) {
		return r, invalid("path %.80q is not absolute, or too long", r.Path)
	}
	if _, err := path.Match(r.Path, "/"); err != nil {
		return r, invalid("path %.80q is not a pattern", r.Path)
	}
	if len(r.Args) > maxArgs || (len(r.Args) > 0 && action == ReadOnly) {
		return r, invalid("more than %d arguments, or arguments for a read-only tool", maxArgs)
	}
	for _, a := range r.Args {
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
	if len(r.Name) > maxText || len(r.Origin) > maxText || len(r.Instead) > maxText {
		return r, invalid("a text is over %d bytes", maxText)
	}
	return r, nil
}

// Needed reports whether there is anything for a gate to do. A container that
// nothing restricts pays for nothing.
func (p *Policy) Needed() bool {
	return p != nil && (p.Mode != Any || len(p.Rules) > 0 || p.RecordAllowed)
}

func (p *Policy) has(a Action) bool {
	for i := range p.Rules {
		if p.Rules[i].Action == a {
			return true
		}
	}
	return false
}

func (p *Policy) hasArgs() bool {
	for i := range p.Rules {
		if len(p.Rules[i].Args) > 0 {
			return true
		}
	}
	return false
}
