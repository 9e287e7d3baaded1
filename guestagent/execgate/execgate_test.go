package execgate

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"golang.org/x/sys/unix"
)

func TestFromRequestRefuses(t *testing.T) {
	long := strings.Repeat("x", maxText+1)
	deny := func(r *agent.ExecRule) *agent.ExecGate {
		if r.GetAction() == 0 {
			r.Action = agent.ExecRule_ACTION_DENY
		}
		return &agent.ExecGate{Rules: []*agent.ExecRule{r}}
	}
	for name, in := range map[string]*agent.ExecGate{
		"image without time":    {Image: &agent.ExecReason{}},
		"too many rules":        {Rules: make([]*agent.ExecRule, maxRules+1)},
		"too many lists":        {Lists: make([]*agent.ExecReason, maxLists+1)},
		"relative trusted file": {Trusted: []string{"x"}},
		"no action":             {Rules: []*agent.ExecRule{{Path: "/x"}}},
		"relative path":         deny(&agent.ExecRule{Path: "bin/x"}),
		"zero byte in path":     deny(&agent.ExecRule{Path: "/x\x00"}),
		"zero byte in argument": deny(&agent.ExecRule{Path: "/x", Argv: []string{"a\x00"}}),
		"too many arguments":    deny(&agent.ExecRule{Path: "/x", Argv: make([]string, maxArgs+1)}),
		"half a digest":         deny(&agent.ExecRule{Path: "/x", Sha256: "abcd"}),
		"no digest":             deny(&agent.ExecRule{Path: "/x", Sha256: strings.Repeat("x", 64)}),
		"no such list":          deny(&agent.ExecRule{Path: "/x", Action: agent.ExecRule_ACTION_LIST, List: 1}),
		"long text":             deny(&agent.ExecRule{Path: "/x", Reason: &agent.ExecReason{Why: long}}),
	} {
		if _, err := FromRequest(in); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p, err := FromRequest(nil); p != nil || err != nil {
		t.Errorf("no gate: %v, %v", p, err)
	}
}

func TestNeeded(t *testing.T) {
	for want, p := range map[bool]*Policy{false: {Mounts: true}, true: {Image: &Reason{}}} {
		if p.Needed() != want {
			t.Errorf("%+v is needed: %v", p, !want)
		}
	}
	if (*Policy)(nil).Needed() {
		t.Error("no policy needs a gate")
	}
}

// tree is a container's root with links that lead out of it.
func tree(t *testing.T) (string, container) {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"bin", "usr/bin", "opt/a/bin"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"usr/bin/git", "usr/bin/gitk", "usr/bin/nc", "opt/a/bin/tool"} {
		if err := os.WriteFile(filepath.Join(root, file), []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"bin/git": "/usr/bin/git", "bin/out": "../../../../../etc/passwd", "opt/loop": "/opt", "bin/fd": "/proc/self/fd/0"} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return root, container{root: fd}
}

func TestResolve(t *testing.T) {
	_, c := tree(t)
	for pattern, want := range map[string][]string{
		"/usr/bin/git":  {"/usr/bin/git"},
		"/bin/git":      {"/bin/git"},
		"/bin/*":        {"/bin/git"}, // what leads out of the root leads nowhere
		"/usr/bin/git*": {"/usr/bin/git", "/usr/bin/gitk"},
		"/usr/bin/g?t":  {"/usr/bin/git"},
		"/**/tool":      {"/opt/a/bin/tool"},
		"/opt/**":       {"/opt/a/bin/tool"},
		"/nothing":      nil,
		"/usr/bin":      nil, // no file
		"/bin/out":      nil,
		"/bin/fd":       nil,
	} {
		found, err := c.resolve(&Policy{Rules: []Rule{{Action: Deny, Path: pattern}}})
		if err != nil {
			t.Errorf("%s: %v", pattern, err)
			continue
		}
		var names []string
		for _, f := range found {
			names = append(names, f.name)
		}
		slices.Sort(names)
		if !slices.Equal(names, want) {
			t.Errorf("%s is %q, want %q", pattern, names, want)
		}
		found.Close()
	}
}

func TestNamesOfOneFileAreOneFile(t *testing.T) {
	_, c := tree(t)
	found, err := c.resolve(&Policy{
		Rules:   []Rule{{Path: "/bin/git"}, {Path: "/usr/bin/git"}, {Path: "/usr/bin/g*"}},
		Trusted: []string{"/bin/git"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	if len(found) != 2 {
		t.Fatalf("%d files", len(found))
	}
	for _, f := range found {
		if f.name == "/bin/git" && (!slices.Equal(f.rules, []int{0, 1, 2}) || !f.trusted) {
			t.Errorf("%+v", f)
		}
	}
}

func TestDigest(t *testing.T) {
	_, c := tree(t)
	// Of "usr/bin/nc".
	sum := []byte("\x8c\x0a\x1b")
	found, err := c.resolve(&Policy{Rules: []Rule{{Path: "/usr/bin/nc", SHA256: sum}}})
	if err != nil || len(found) != 0 {
		t.Errorf("another content is taken for it: %v, %v", found, err)
	}
}

func TestCompile(t *testing.T) {
	p := &Policy{Lists: []Reason{{}, {Would: true}}, Rules: []Rule{
		0: {Action: InList, List: 0},
		1: {Action: InList, List: 1, Argv: []string{"status"}},
		2: {Action: Deny, Argv: []string{"push", "push"}},
		3: {Action: Ask},
		4: {Action: Deny, Reason: Reason{Would: true}},
		5: {Action: ReadOnly},
	}}
	const kept, guarded = gateLabelBitLABEL_KEPT, gateLabelBitLABEL_GUARDED
	for name, test := range map[string]struct {
		rules []int
		bits  gateLabelBit
		rule  uint32
	}{
		"listed":               {[]int{0}, kept, 0},
		"listed, some runs":    {[]int{1}, gateLabelBitLABEL_ARGS, 0},
		"arguments denied":     {[]int{2}, gateLabelBitLABEL_ARGS | kept | guarded, 3},
		"asked":                {[]int{3}, gateLabelBitLABEL_ASK | kept, 4},
		"would be denied":      {[]int{4}, 0, 0},
		"read-only":            {[]int{5}, gateLabelBitLABEL_READONLY | kept | guarded, 6},
		"read-only, and asked": {[]int{5, 3}, gateLabelBitLABEL_READONLY | gateLabelBitLABEL_ASK | kept | guarded, 4},
	} {
		c, err := compile(p, test.rules, false, 1)
		if err != nil || gateLabelBit(c.label.Bits) != test.bits || c.label.Rule != test.rule {
			t.Errorf("%s: %+v, %v", name, c.label, err)
		}
	}
	c, err := compile(p, []int{2, 1}, false, 1)
	if err != nil || c.set.Count != 2 || c.set.First != 0b101 || c.set.Rules[0].Last != 0b10 || c.set.Rules[1].Last != 0b100 || c.words[hash("push")] != 0b11 {
		t.Errorf("%+v %v, %v", c.set, c.words, err)
	}
	if _, err := compile(&Policy{Rules: []Rule{{Action: Deny, Argv: make([]string, 65)}}}, []int{0}, false, 1); err == nil {
		t.Error("65 words have a bit each")
	}
}

// Rules that only record take nothing from a file, and all that they would take
// is told of.
func TestCompileOfWhatOnlyRecords(t *testing.T) {
	would := Reason{Would: true}
	p := &Policy{Lists: []Reason{would}, Rules: []Rule{
		{Action: Deny, Reason: would}, {Action: ReadOnly, Reason: would}, {Action: Deny, Argv: []string{"push"}, Reason: would}, {Action: InList, Reason: would},
		{Action: Ask},
	}}
	const kept, guarded = gateLabelBitLABEL_KEPT, gateLabelBitLABEL_GUARDED
	for _, test := range []struct {
		rule  int
		bits  gateLabelBit
		would gateLabelBit
	}{
		{0, 0, gateLabelBitLABEL_DENY | kept},
		{1, 0, gateLabelBitLABEL_READONLY | kept | guarded},
		{2, gateLabelBitLABEL_ARGS, kept | guarded},
		{3, 0, kept},
	} {
		c, err := compile(p, []int{test.rule}, false, 1)
		if err != nil || gateLabelBit(c.label.Bits) != test.bits || gateLabelBit(c.label.Would) != test.would || c.label.WouldRule != uint32(test.rule)+1 || c.label.Rule != 0 {
			t.Errorf("rule %d: %+v, %v", test.rule, c.label, err)
		}
		if c.set != nil && c.set.Firm != 0 {
			t.Errorf("rule %d ends runs", test.rule)
		}
	}
	both, err := compile(p, []int{0, 4}, false, 1)
	if err != nil || gateLabelBit(both.label.Bits) != gateLabelBitLABEL_ASK|kept || both.label.Rule != 5 || both.label.WouldRule != 1 {
		t.Errorf("with one that is enforced: %+v, %v", both.label, err)
	}
	if p.records() {
		t.Error("a policy with a rule that is enforced only records")
	}
	p.Rules = p.Rules[:4]
	if !p.records() {
		t.Error("a policy of rules that only record does more")
	}
	for name, firm := range map[string]*Policy{"image": {Image: &Reason{}}, "a list": {Lists: []Reason{would, {}}}} {
		if firm.records() {
			t.Errorf("%s only records", name)
		}
	}
	firm, err := compile(&Policy{Rules: []Rule{{Action: Deny, Argv: []string{"push"}}}}, []int{0}, false, 1)
	if err != nil || firm.set.Firm != 1 {
		t.Errorf("%+v, %v", firm.set, err)
	}
}

func TestHash(t *testing.T) {
	// The published value of FNV-1a, 64 bits.
	if got := hash("foobar"); got != 0x85944171f73967e8 {
		t.Errorf("%x", got)
	}
}

func TestRefuses(t *testing.T) {
	p := &Policy{Lists: []Reason{{Rule: "list"}}, Rules: []Rule{
		{Action: InList, List: 0},
		{Action: Deny, Argv: []string{"push"}, Reason: Reason{Rule: "push"}},
		{Action: Hide, Reason: Reason{Rule: "hide"}},
		{Action: Deny, Reason: Reason{Rule: "would", Would: true}},
	}}
	for _, test := range []struct {
		rules []int
		argv  []string
		want  string
	}{
		{nil, nil, "list"},
		{[]int{0}, nil, ""},
		{[]int{0, 1}, []string{"-x", "push"}, "push"},
		{[]int{0, 1}, []string{"pull"}, ""},
		{[]int{0, 1, 2}, []string{"push"}, "hide"},
		{[]int{0, 3}, nil, ""},
	} {
		decision, why := p.refuses(&file{rules: test.rules}, test.argv)
		got := ""
		if why != nil {
			got = why.Rule
		}
		want := map[string]gateDecision{"": gateDecisionDECISION_ALLOW, "hide": gateDecisionDECISION_HIDE}
		if d, ok := want[test.want]; got != test.want || ok && d != decision || !ok && decision != gateDecisionDECISION_DENY {
			t.Errorf("rules %v, %q: %q, %d", test.rules, test.argv, got, decision)
		}
	}
}

// TestCheckIsTold: what is refused before there is a process is a decision like
// others, on record and for whoever is in the container.
func TestCheckIsTold(t *testing.T) {
	root, _ := tree(t)
	f, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	p := &Policy{Rules: []Rule{
		{Action: Deny, Path: "/usr/bin/git", Reason: Reason{Rule: "deny", Instead: "do without it"}},
		{Action: Ask, Path: "/usr/bin/nc", Reason: Reason{Rule: "ask"}},
		{Action: Hide, Path: "/usr/bin/gitk", Reason: Reason{Rule: "hide"}},
	}}
	var told []string
	g := &Gate{policy: p, root: f, armed: true, records: newQueue(), seen: func(d *agent.Decision, why Reason) {
		if Refused(d) {
			told = append(told, d.GetKind()+" "+d.GetDecision()+" "+d.GetPath()+" "+why.Instead)
		}
	}}
	defer g.forget()
	if g.files, err = (container{root: int(f.Fd())}).resolve(p); err != nil {
		t.Fatal(err)
	}
	for program, want := range map[string]string{"git": "permission denied", "nc": "permission denied", "gitk": "no such file", "tool": ""} {
		err := g.Check([]string{program}, []string{"PATH=/opt/a/bin:/usr/bin"}, "/")
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", program, err)
		}
	}
	slices.Sort(told)
	if want := []string{"exec ask /usr/bin/nc ", "exec deny /usr/bin/git do without it"}; !slices.Equal(told, want) {
		t.Errorf("told %q", told)
	}
	if list, _ := g.records.take(0); len(list) != 3 {
		t.Errorf("recorded %v", list)
	}
}

func TestQueueIsBounded(t *testing.T) {
	q := newQueue()
	for range maxQueued + 3 {
		q.put(&agent.Decision{})
	}
	total, lost := 0, uint64(0)
	for {
		list, n := q.take(5)
		lost += n
		if len(list) == 0 {
			break
		}
		if len(list) > maxReply {
			t.Fatalf("an answer of %d", len(list))
		}
		total += len(list)
	}
	if total != maxQueued || lost != 3+5 {
		t.Errorf("%d kept, %d lost", total, lost)
	}
}

func FuzzDecode(f *testing.F) {
	g := &Gate{policy: &Policy{Rules: []Rule{{}}, Lists: []Reason{{}}}}
	f.Add(make([]byte, 840))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, _, err := g.decode(raw)
		if err == nil && (len(d.GetPath()) > maxString || len(d.GetArgv()) > 512) {
			t.Errorf("%d bytes, %d arguments", len(d.GetPath()), len(d.GetArgv()))
		}
	})
}
