package annotations

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"pgregory.net/rapid"

	"github.com/nanoclaw/nanoclaw/annotations/pattern"
)

// The universe of the properties is small on purpose: rules and attempts must
// meet often.
var (
	somePaths = []string{"/bin/sh", "/usr/bin/git", "/usr/bin/nc", "/usr/bin/*", "/usr/**", "/opt/x"}
	someHosts = []string{"a.x.org", "b.x.org:443", "*.x.org", "**", "10.1.2.3", "private", "10.0.0.0/8"}
	someTools = []string{"git", "crm", "tickets"}
	someEnvs  = []string{"CRM_TOKEN", "GIT_TOKEN"}
	someDests = []string{"/w", "/data"}
)

const someCatalog = `
tools:
  git: {risk: irreversible, exec: [{path: /usr/bin/git, argv: [push]}], endpoints: [a.x.org], secrets: [{env: GIT_TOKEN, source: "file:/a", hosts: [a.x.org]}]}
  crm: {exec: [/opt/x], endpoints: ["b.x.org:443"], mounts: [{source: /srv/crm, access: rw}], secrets: [{env: CRM_TOKEN, source: "file:/b", hosts: [b.x.org]}]}
  tickets: {exec: [/usr/bin/nc, /opt/x], mounts: [{source: /srv/tickets, access: ro}]}
`

// attempts are all that the properties ask about.
func attempts() []Query {
	var all []Query
	for _, s := range []string{
		"exec /bin/sh", "exec /usr/bin/git status", "exec /usr/bin/git push", "exec /usr/bin/nc", "exec /opt/x", "exec /usr/local/bin/y",
		"network a.x.org", "network b.x.org:443", "network b.x.org:80", "network c.y.org", "network 10.1.2.3", "network 8.8.8.8",
		"tool git", "tool crm", "tool tickets", "secret CRM_TOKEN", "secret GIT_TOKEN",
		"mount /home/ada:/w", "mount /home/ada:/w:ro", "mount /srv/crm/x:/data", "mount /srv/crm/x:/data:ro", "mount /srv/tickets:/data",
		"mount /srv:/w:ro", "mount /etc:/w:ro", "mount /opt/z:/other",
	} {
		q, err := ParseQuery(s)
		if err != nil {
			panic(err)
		}
		all = append(all, q)
	}
	return all
}

func pick(t *rapid.T, label string, from []string) []string {
	s := rapid.SliceOfNDistinct(rapid.SampledFrom(from), 0, 3, rapid.ID).Draw(t, label)
	return s
}

func yes(t *rapid.T, label string) bool { return rapid.IntRange(0, 2).Draw(t, label) == 0 }

func flow(items []string) string {
	quoted := make([]string, len(items))
	for i, s := range items {
		quoted[i] = fmt.Sprintf("%q", s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// said is what a layer was made to say, by the annotations' keys.
type said map[string]string

// saidFolders is the key of the ceiling's folders, which no annotation has.
const saidFolders = "folders"

// drawLayer draws the keys that ceiling and agent have in common.
func drawLayer(t *rapid.T, label string, ceiling bool) (lines []string, says said) {
	says = said{}
	add := func(key, value string) { lines = append(lines, "    "+key+": "+value) }
	pick := func(t *rapid.T, label string, from []string) []string {
		s := pick(t, label, from)
		_, key, _ := strings.Cut(label, " ")
		says[Prefix+key] = strings.Join(s, ",")
		return s
	}
	if yes(t, label+" exec") {
		parts := []string{"deny: " + flow(pick(t, label+" exec.deny", somePaths)), "ask: " + flow(pick(t, label+" exec.ask", somePaths))}
		switch rapid.IntRange(0, 4).Draw(t, label+" exec.mode") {
		case 0:
			parts = append(parts, "mode: image")
			says[KeyExecMode] = "image"
		case 1:
			parts = append(parts, "allow: "+flow(pick(t, label+" exec.allow", somePaths)))
		case 2:
			parts = append(parts, "mode: allowlist")
			says[KeyExecMode] = "allowlist"
		}
		add("exec", "{"+strings.Join(parts, ", ")+"}")
	}
	if yes(t, label+" network") {
		parts := []string{"deny: " + flow(pick(t, label+" network.deny", someHosts)), "ask: " + flow(pick(t, label+" network.ask", someHosts))}
		switch rapid.IntRange(0, 5).Draw(t, label+" network.mode") {
		case 0:
			parts = append(parts, "mode: none")
			says[KeyNetwork] = "none"
		case 1:
			parts = append(parts, "allow: "+flow(pick(t, label+" network.allow", someHosts)))
		case 2:
			parts = append(parts, "mode: filtered")
			says[KeyNetwork] = "filtered"
		}
		add("network", "{"+strings.Join(parts, ", ")+"}")
	}
	if yes(t, label+" mounts") {
		var parts []string
		if ceiling {
			folders := rapid.SampledFrom([]string{
				"{source: /home, access: rw}, {source: /srv, access: ro}", "{source: /srv, access: rw}", "",
			}).Draw(t, label+" mounts.allow")
			parts = append(parts, "allow: ["+folders+"]", "readonly: [/elsewhere]")
			says[saidFolders] = folders
		} else {
			parts = append(parts, rapid.SampledFrom([]string{
				`allow: ["/w:ro", "/data:rw"]`, `allow: ["/w:rw"]`, `readonly: ["*"]`, "readonly: [/data]", "allow: []",
			}).Draw(t, label+" mounts.allow"))
		}
		add("mounts", "{"+strings.Join(parts, ", ")+"}")
	}
	if yes(t, label+" limits") {
		add("limits", fmt.Sprintf("{cpus: %d, memory: %dm, pids: %d}", rapid.IntRange(1, 4).Draw(t, label+" cpus"), rapid.IntRange(6, 9).Draw(t, label+" memory"), rapid.IntRange(1, 4).Draw(t, label+" pids")))
	}
	if yes(t, label+" secrets") {
		add("secrets", flow(pick(t, label+" secrets", someEnvs)))
	}
	if yes(t, label+" tools") || !ceiling && yes(t, label+" tools, again") {
		add("tools", flow(pick(t, label+" tools", someTools)))
	}
	return lines, says
}

func drawAgent(t *rapid.T) ([]string, said) {
	lines, says := drawLayer(t, "agent", false)
	lines = append(lines, "    readonly_tools: "+rapid.SampledFrom([]string{"true", "false", "[crm]"}).Draw(t, "readonly_tools"))
	return append(lines, "    mode: "+rapid.SampledFrom([]string{"enforce", "audit"}).Draw(t, "mode")), says
}

func fileText(ceiling, agent []string) string {
	s := someCatalog
	if len(ceiling) > 0 {
		s += "ceiling:\n" + strings.Join(ceiling, "\n") + "\n"
	}
	return s + "agents:\n  - name: a\n" + strings.Join(agent, "\n") + "\n"
}

// drawAnnotations draws annotations, without the agent.
func drawAnnotations(t *rapid.T) map[string]string {
	given := map[string]string{}
	join := func(s []string) string { return strings.Join(s, ",") }
	choices := map[string]func(label string) string{
		KeyTools:          func(l string) string { return join(pick(t, l, someTools)) },
		KeyReadonlyTools:  func(l string) string { return rapid.SampledFrom([]string{"true", "crm,git"}).Draw(t, l) },
		KeyExecMode:       func(l string) string { return rapid.SampledFrom([]string{"image", "allowlist"}).Draw(t, l) },
		KeyExecAllow:      func(l string) string { return join(append(pick(t, l, somePaths), "/bin/sh")) },
		KeyExecDeny:       func(l string) string { return join(pick(t, l, somePaths)) },
		KeyExecAsk:        func(l string) string { return join(pick(t, l, somePaths)) },
		KeyNetwork:        func(l string) string { return rapid.SampledFrom([]string{"filtered", "none"}).Draw(t, l) },
		KeyNetworkAllow:   func(l string) string { return join(pick(t, l, someHosts)) },
		KeyNetworkDeny:    func(l string) string { return join(pick(t, l, someHosts)) },
		KeyNetworkAsk:     func(l string) string { return join(pick(t, l, someHosts)) },
		KeySecrets:        func(l string) string { return join(pick(t, l, someEnvs)) },
		KeyMountsAllow:    func(l string) string { return rapid.SampledFrom([]string{"/w:ro", "/w:rw,/data:ro", ""}).Draw(t, l) },
		KeyMountsReadonly: func(l string) string { return rapid.SampledFrom([]string{"*", "/w"}).Draw(t, l) },
		KeyLimitsCPUs:     func(l string) string { return fmt.Sprint(rapid.IntRange(1, 4).Draw(t, l)) },
		KeyLimitsPids:     func(l string) string { return fmt.Sprint(rapid.IntRange(1, 4).Draw(t, l)) },
		KeyMode:           func(string) string { return "enforce" },
	}
	for _, key := range slices.Sorted(mapsKeys(choices)) {
		if yes(t, key) {
			given[key] = choices[key](key + " value")
		}
	}
	return given
}

func mapsKeys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// notWider fails where p permits something that q does not.
func notWider(t *rapid.T, what string, p, q *Policy) {
	for _, a := range attempts() {
		if a.verb == "secret" && q.Agent == "" {
			// A secret is not restricted but granted, and only to an agent.
			continue
		}
		got := p.Decide(a)
		// What p gives read-only, whatever was asked, must be what q gives so.
		a.mount.ReadOnly = a.mount.ReadOnly || a.verb == "mount" && p.ReadOnly(a.mount.Destination)
		limit := q.Decide(a)
		if slices.Index(decisions, got.Decision) < slices.Index(decisions, limit.Decision) {
			t.Fatalf("%s: %s is %+v, and %+v of it alone", what, a, got, limit)
		}
		if got.Decision != DecisionDeny && limit.Depends != "" && got.Depends == "" {
			t.Fatalf("%s: %s depends on %s, and no more", what, a, limit.Depends)
		}
	}
	for _, l := range limitNames {
		mine, other := *limitKinds[l.name].field(&p.Limits), *limitKinds[l.name].field(&q.Limits)
		if other != nil && (mine == nil || mine.Value > other.Value) {
			t.Fatalf("%s: limits.%s is %+v, and %+v of it alone", what, l.name, mine, other)
		}
	}
	// The baseline and the ceiling are always enforced; the mode is about the rest.
	if q.From != nil && slices.Index([]Mode{ModeAudit, ModeEnforce}, p.Mode) < slices.Index([]Mode{ModeAudit, ModeEnforce}, q.Mode) {
		t.Fatalf("%s: mode %s, and %s of it alone", what, p.Mode, q.Mode)
	}
	if q.Tools != nil {
		for _, r := range q.Tools.Open {
			i := slices.IndexFunc(p.Tools.Open, func(o ToolRule) bool { return o.Name == r.Name })
			if r.Readonly != nil && i >= 0 && p.Tools.Open[i].Readonly == nil {
				t.Fatalf("%s: the tool %s can write again", what, r.Name)
			}
		}
	}
}

// holds checks a policy against what one layer said, without the code that
// compiles: a fault there would be in both sides of [notWider].
func (s said) holds(t *rapid.T, layer string, p *Policy) {
	broken := func(key, what string) { t.Fatalf("the %s says %s=%s, and %s", layer, key, s[key], what) }
	atLeast := func(key string, order []string, mode string) {
		if slices.Index(order, s[key]) > slices.Index(order, mode) {
			broken(key, "the mode is "+mode)
		}
	}
	atLeast(KeyExecMode, []string{"any", "image", "allowlist"}, string(p.Exec.Mode))
	atLeast(KeyNetwork, []string{"open", "filtered", "none"}, string(p.Network.Mode))
	for _, a := range attempts() {
		v := p.Decide(a)
		matches := func(key string) bool {
			for _, item := range list(s[key]) {
				e, err := pattern.ParseEndpoint(item)
				switch {
				case a.verb == "exec" && pattern.MatchPath(item, a.args[0]), a.verb == "network" && err == nil && e.Match(a.host, a.port),
					a.verb == "tool" && item == a.args[0], a.verb == "secret" && item == a.args[0]:
					return true
				}
			}
			return false
		}
		ruled := map[string][2]string{
			"exec": {KeyExecDeny, KeyExecAsk}, "network": {KeyNetworkDeny, KeyNetworkAsk},
		}[a.verb]
		if v.Decision != DecisionDeny && matches(ruled[0]) {
			broken(ruled[0], a.String()+" is "+string(v.Decision))
		}
		if v.Decision == DecisionAllow && matches(ruled[1]) {
			broken(ruled[1], a.String()+" is allow")
		}
		if folders, listed := s[saidFolders]; listed && a.verb == "mount" && v.Decision != DecisionDeny {
			root := "/" + strings.Split(a.mount.Source.Path, "/")[1]
			access := "rw"
			if a.mount.ReadOnly || p.ReadOnly(a.mount.Destination) {
				access = "r"
			}
			if !strings.Contains(folders, "{source: "+root+", access: "+access) {
				broken(saidFolders, a.String()+" is "+string(v.Decision))
			}
		}
		closed := map[string]string{"exec": KeyExecAllow, "network": KeyNetworkAllow, "tool": KeyTools, "secret": KeySecrets}[a.verb]
		if layer == "agent" && (a.verb == "exec" || a.verb == "network") {
			continue // its lists come on top of its tools
		}
		if _, listed := s[closed]; listed && v.Decision != DecisionDeny && !matches(closed) {
			broken(closed, a.String()+" is "+string(v.Decision))
		}
	}
	for _, item := range list(s[KeyMountsAllow]) {
		if dest, mode, _ := cutLast(item, ":"); mode == "ro" && !p.ReadOnly(dest) && p.DecideMount(writable(dest)).Decision != DecisionDeny {
			broken(KeyMountsAllow, dest+" can be written")
		}
	}
	if _, listed := s[KeyMountsAllow]; listed && p.DecideMount(writable("/elsewhere")).Decision != DecisionDeny {
		broken(KeyMountsAllow, "/elsewhere can be mounted")
	}
}

func writable(destination string) Mount {
	return Mount{Destination: destination, Source: Source{Asked: "/home/ada", Path: "/home/ada", Kind: KindDir}}
}

// sound checks what holds of every policy of an agent.
func sound(t *rapid.T, p *Policy) {
	if p.Exec.Mode == ExecAllowlist && len(p.Exec.Allow) == 0 {
		t.Fatal("only listed programs run, and there is no list")
	}
	for _, query := range []string{"tool git", "exec /usr/bin/git push", "exec /usr/bin/git -C /w push"} {
		if q, err := ParseQuery(query); err != nil || p.Decide(q).Decision == DecisionAllow {
			t.Fatalf("%s, which cannot be undone, is allowed (%v)", query, err)
		}
	}
}

// held checks what the mode leaves in force.
func held(t *rapid.T, p, ceiling *Policy) {
	if p.Mode == ModeEnforce && p.Held() != p {
		t.Fatal("not all is in force in the mode enforce")
	}
	notWider(t, "the baseline, whatever the mode", p.Held(), must(ForAgent(nil, "")))
	notWider(t, "the ceiling, whatever the mode", p.Held(), ceiling)
	for _, a := range attempts() {
		if a.verb == "mount" {
			heldMount(t, p, ceiling, a.mount)
			continue
		}
		in, all := p.Held().Decide(a), p.Decide(a)
		if slices.Index(decisions, in.Decision) > slices.Index(decisions, all.Decision) {
			t.Fatalf("%s is %+v in the mode %s, and %+v by all rules", a, in, p.Mode, all)
		}
		if a.verb == "exec" && slices.Contains(a.args, "push") && in.Decision == DecisionAllow {
			t.Fatalf("%s, which cannot be undone, is allowed by the mode %s", a, p.Mode)
		}
	}
	// What is in force and what is recorded are all the rules together.
	more := p.Exec.Beyond(&p.Held().Exec)
	both := p.Held().Exec.meet(more)
	for _, a := range attempts() {
		if a.verb != "exec" {
			continue
		}
		got, want := both.Decide(a.args[0], a.args[1:]), p.Exec.Decide(a.args[0], a.args[1:])
		if slices.Index(decisions, got.Decision) < slices.Index(decisions, want.Decision) {
			t.Fatalf("%s is neither refused nor recorded: %+v, and %+v by all rules", a, got, want)
		}
	}
}

func heldMount(t *rapid.T, p, ceiling *Policy, m Mount) {
	made, err := p.Admit(m)
	all := p.CheckMount(m)
	as := m
	as.ReadOnly = m.ReadOnly || made.ReadOnly
	switch {
	case err == nil && ceiling.CheckMount(as) != nil:
		t.Fatalf("%+v is let through against the ceiling", as)
	case err == nil && all != nil && made.Would == nil:
		t.Fatalf("%+v is let through, and not recorded", m)
	case err != nil && all == nil:
		t.Fatalf("%+v is refused by the mode %s, and by no rule", m, p.Mode)
	case err == nil && !as.ReadOnly && p.ReadOnly(m.Destination) && made.Would == nil:
		t.Fatalf("%+v can be written, and that is not recorded", m)
	case p.Mode == ModeEnforce && (made.Would != nil || made.ReadOnly != p.ReadOnly(m.Destination) || (err == nil) != (all == nil)):
		t.Fatalf("%+v: %+v, %v in the mode enforce", m, made, err)
	}
}

func with(given map[string]string, key, value string) map[string]string {
	all := map[string]string{key: value}
	for k, v := range given {
		all[k] = v
	}
	return all
}

func specOf(t *rapid.T) *specs.Spec {
	s := dockerSpec()
	if yes(t, "flags") {
		cpus, pids := rapid.Int64Range(1, 5).Draw(t, "--cpus")*100000, rapid.Int64Range(1, 5).Draw(t, "--pids-limit")
		s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &cpus}
		s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
	}
	for _, d := range someDests {
		s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: "/home/ada", Destination: d, Options: []string{rapid.SampledFrom([]string{"ro", "rw"}).Draw(t, "-v "+d)}})
	}
	return s
}

// TestEffectiveIsNarrowerThanEach: ceiling ⊓ agent ⊓ annotations ⊓ flags ⊑ each
// of them, or it is refused.
func TestEffectiveIsNarrowerThanEach(t *testing.T) {
	compiled := 0
	rapid.Check(t, func(t *rapid.T) {
		ceiling, ceilingSays := drawLayer(t, "ceiling", true)
		agent, agentSays := drawAgent(t)
		given, spec := drawAnnotations(t), specOf(t)
		file, err := ParseFile(fileName1, []byte(fileText(ceiling, agent)))
		if err != nil {
			t.Skip("wider than the ceiling")
		}
		p, err := Compile(Input{ID: testID, Annotations: with(given, KeyAgent, "a"), Spec: spec, Host: file, Enforced: Everything})
		if err != nil {
			t.Skip("refused")
		}
		compiled++
		sound(t, p)
		ceilingSays.holds(t, "ceiling", p)
		agentSays.holds(t, "agent", p)
		said(given).holds(t, "annotations", p)
		notWider(t, "the baseline", p, must(ForAgent(nil, "")))
		// "Only what was granted" means the agent's grants, in whatever layer.
		granted := file.grants(file.agent("a"))
		notWider(t, "the ceiling", p, resolve(file, nil, file.ceiling.with(granted)))
		if alone, err := ForAgent(parsed(fileText(nil, agent)), "a"); err == nil {
			notWider(t, "the agent", p, alone)
		}
		for _, q := range must(readAnnotations(given, Everything)) {
			notWider(t, "the annotations", p, resolve(file, nil, q.with(granted)))
		}
		ceilingSays.holds(t, "ceiling, whatever the mode", p.Held())
		held(t, p, resolve(file, nil, file.ceiling.with(granted)))
		for _, s := range p.Secrets {
			if asked, listed := given[KeySecrets]; listed && !slices.Contains(list(asked), s.Env) {
				t.Fatalf("the secret %s is not among %q", s.Env, asked)
			}
		}
		// The flags: what was asked for is not exceeded, and neither is the policy.
		out := p.Apply(spec)
		if asked := spec.Linux.Resources.Pids; asked != nil && *out.Linux.Resources.Pids.Limit > *asked.Limit {
			t.Fatal("more processes than asked for")
		}
		if l := p.Limits.Pids; l != nil && *out.Linux.Resources.Pids.Limit > l.Value {
			t.Fatal("more processes than the policy has")
		}
		for i, m := range spec.Mounts {
			if slices.Contains(m.Options, "ro") && !slices.Contains(out.Mounts[i].Options, "ro") {
				t.Fatalf("%s became writable", m.Destination)
			}
		}
	})
	if compiled == 0 {
		t.Error("nothing was ever compiled: the property says nothing")
	}
	t.Logf("%d policies", compiled)
}

func parsed(text string) *File {
	f, err := ParseFile(fileName1, []byte(text))
	if err != nil {
		panic(err)
	}
	return f
}

// drawRules draws the rules of one layer.
func drawRules(t *rapid.T, label string) rules {
	requests, err := readAnnotations(drawAnnotations(t), Everything)
	if err != nil {
		t.Skip(err)
	}
	all := rules{}
	for _, q := range requests {
		all = all.meet(q.rules)
	}
	lines, _ := drawLayer(t, label, true)
	file, err := ParseFile(fileName1, []byte(fileText(lines, nil)))
	if err != nil {
		t.Skip(err)
	}
	if yes(t, label+" ceiling") {
		return all.meet(file.ceiling.rules)
	}
	return all
}

// TestMeet: commutative, associative, idempotent, with nothing as its unit.
func TestMeet(t *testing.T) {
	show := func(r rules) string {
		return fmt.Sprintf("%+v %+v", printable(r), resolve(parsed(someCatalog), nil, r).Digest())
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := drawRules(t, "a"), drawRules(t, "b"), drawRules(t, "c")
		if x, y := show(a.meet(b)), show(b.meet(a)); x != y {
			t.Fatalf("not commutative:\n%s\n%s", x, y)
		}
		if x, y := show(a.meet(b).meet(c)), show(a.meet(b.meet(c))); x != y {
			t.Fatalf("not associative:\n%s\n%s", x, y)
		}
		if x, y := show(a.meet(b).meet(a)), show(a.meet(b)); x != y {
			t.Fatalf("not idempotent:\n%s\n%s", x, y)
		}
		if x, y := show(a.meet(rules{})), show(a); x != y {
			t.Fatalf("no unit:\n%s\n%s", x, y)
		}
	})
}

// printable follows the pointers, whose values are what counts.
func printable(r rules) string {
	s := fmt.Sprintf("%v %v %v %v %v %v %v %v", r.mode, r.tools, r.secrets, r.readonlyTools, r.sources, r.allow, r.readonly, r.hide)
	s += fmt.Sprintf(" %v %v %v %v %v", r.exec.Mode, origin(r.exec.From), r.exec.Allow, r.exec.Deny, r.exec.Ask)
	s += fmt.Sprintf(" %v %v %v %v %v", r.network.Mode, origin(r.network.From), r.network.Allow, r.network.Deny, r.network.Ask)
	for _, l := range limitNames {
		if v := *limitKinds[l.name].field(&r.limits); v != nil {
			s += fmt.Sprintf(" %s %v", l.name, *v)
		}
	}
	return s
}

// TestOrderDoesNotMatter: the same keys as annotations and as one JSON object,
// and the same rules twice, make the same policy.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		agent, _ := drawAgent(t)
		ceiling, _ := drawLayer(t, "ceiling", true)
		shuffled := rapid.Permutation(agent).Draw(t, "order")
		a, errA := ForAgent(parsedOrSkip(t, fileText(nil, agent)), "a")
		b, errB := ForAgent(parsedOrSkip(t, fileText(nil, shuffled)), "a")
		if (errA == nil) != (errB == nil) || errA == nil && a.Digest() != b.Digest() {
			t.Fatalf("another order, another policy: %v, %v", errA, errB)
		}
		file := parsedOrSkip(t, fileText(ceiling, agent))
		requests, err := readAnnotations(with(drawAnnotations(t), KeyAgent, "a"), Everything)
		if err != nil {
			t.Skip(err)
		}
		once, errOnce := effective(file, requests)
		twice, errTwice := effective(file, append(slices.Clone(requests), requests...))
		if (errOnce == nil) != (errTwice == nil) || errOnce == nil && once.Digest() != twice.Digest() {
			t.Fatalf("applied twice it is another policy: %v, %v", errOnce, errTwice)
		}
	})
}

func parsedOrSkip(t *rapid.T, text string) *File {
	f, err := ParseFile(fileName1, []byte(text))
	if err != nil {
		t.Skip(err)
	}
	return f
}
