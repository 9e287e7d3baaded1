package annotations

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nanoclaw/nanoclaw/annotations/document"
)

// Input is what a policy is compiled from.
type Input struct {
	// ID is the container's id.
	ID string
	// Peers are the ids of the containers whose network this one joins.
	Peers []string
	// Annotations are the container's; only those that are [Ours] are read.
	Annotations map[string]string
	// Spec is the OCI spec as the engine wrote it. It is not changed.
	Spec *specs.Spec
	// Host is the host's policy file; nil: there is none.
	Host *File
	// Private are the runtime's own folders and files on this host, which are
	// never shared, wherever the configuration has put them.
	Private []string
	// Enforced is what the caller can enforce. A policy that needs more is
	// refused.
	Enforced Enforced
}

// Compile returns the effective policy of a container, or a [Refusal] of the
// first thing in its annotations or its spec that no policy can allow, or that
// the caller cannot enforce. Mounts are judged later, by [Policy.CheckMount],
// when it is known what they resolve to.
func Compile(in Input) (*Policy, error) {
	if in.Spec == nil || in.Spec.Linux == nil {
		return nil, fmt.Errorf("the OCI spec of container %s has no linux section", quote(in.ID))
	}
	requests, err := readAnnotations(in.Annotations, in.Enforced)
	if err != nil {
		return nil, err
	}
	p, err := effective(in.Host, requests)
	if err != nil {
		return nil, err
	}
	p.Container, p.Peers = in.ID, in.Peers
	for _, id := range append([]string{in.ID}, in.Peers...) {
		p.Mounts.Engine = append(p.Mounts.Engine, engineFolders(id, in.Spec)...)
	}
	p.refusePrivate(in.Private)
	if err := checkFlags(p, in.Spec); err != nil {
		return nil, err
	}
	if err := checkDestinations(p, in.Spec); err != nil {
		return nil, err
	}
	if in.Spec.Linux.Resources != nil {
		if err := p.CheckResources(in.Spec.Linux.Resources); err != nil {
			return nil, err
		}
	}
	if p.Firm != nil {
		p.Firm.sameContainer(p)
	}
	if err := checkSize(p); err != nil {
		return nil, err
	}
	return p, in.Enforced.check(p)
}

// MaxPolicy bounds the JSON form of a policy that the guest gets, in bytes.
const MaxPolicy = 1 << 20

// checkSize refuses a policy that the guest would not take. It is several
// thousand rules.
func checkSize(p *Policy) error {
	b, err := json.Marshal(p.ForGuest())
	if err != nil {
		return fmt.Errorf("encode the policy of container %s: %w", quote(p.Container), err)
	}
	if len(b) > MaxPolicy {
		return &Refusal{
			Rule: "policy size", Origin: baseline, What: "the policy of the container",
			Why: fmt.Sprintf("with all its rules it has %d bytes, and at most %d are possible", len(b), MaxPolicy), Instead: "use wildcards, or fewer tools",
		}
	}
	return nil
}

// ForAgent returns the policy of a container that names an agent and has no
// other annotations. An empty name is a container without an agent.
func ForAgent(host *File, name string) (*Policy, error) {
	var q request
	if name != "" {
		q.agent = &nameRule{Name: name, Origin: Origin{Layer: LayerAnnotation, Where: KeyAgent}}
	}
	return effective(host, []request{q})
}

// effective is ceiling ⊓ agent ⊓ annotations. The flags come last, each where
// it is judged: in [Policy.CheckMount], [Policy.CheckResources],
// [Policy.NarrowResources] and [Policy.Apply].
func effective(host *File, requests []request) (*Policy, error) {
	agent, err := findAgent(host, requests)
	if err != nil {
		return nil, err
	}
	for _, q := range requests {
		if err := checkRequest(host, q); err != nil {
			return nil, err
		}
	}
	granted := host.grants(agent)
	all := rules{}
	if host != nil {
		all = all.meet(host.ceiling.with(granted))
	}
	if agent != nil {
		all = all.meet(agent.with(granted))
	}
	for _, q := range requests {
		all = all.meet(q.with(granted))
	}
	p := resolve(host, agent, all)
	if p.Mode == ModeAudit {
		p.Firm = p.firm(host, granted)
	}
	if err := p.checkSecrets(); err != nil {
		return nil, err
	}
	return p, p.Held().checkRuns()
}

// findAgent returns the entry that the annotations name, or nil.
func findAgent(host *File, requests []request) (*Agent, error) {
	var asked *nameRule
	for i := range requests {
		switch a := requests[i].agent; {
		case a == nil:
		case asked != nil && asked.Name != a.Name:
			return nil, badValue(a.Where, a.Name, "another annotation names the agent "+quote(asked.Name), "name one agent")
		default:
			asked = a
		}
	}
	if asked == nil {
		return nil, nil
	}
	if agent := host.agent(asked.Name); agent != nil {
		return agent, nil
	}
	if host == nil {
		return nil, badValue(asked.Where, asked.Name, "there is no policy file on this host, and so no agent", "remove it, or have the host's administrator write the file")
	}
	return nil, unknownIn(asked, "agent", host.agentNames(), host.Name)
}

// checkRequest refuses what annotations name and the catalog does not have, and
// what is wider than the ceiling.
func checkRequest(host *File, q request) error {
	for _, u := range host.unknownNames(q.rules) {
		return unknownIn(&u.nameRule, u.what, u.known, fileName(host))
	}
	if len(q.readonlyTools) > 0 && len(host.toolNames()) == 0 {
		return badValue(q.readonlyTools[0].Where, "true", "there is no catalog of tools on this host", "remove it")
	}
	for _, x := range host.exceeds(q.rules, nil) {
		return &Refusal{Rule: x.rule, Origin: x.limit, What: "the annotation " + x.origin.Where, Why: x.what, Instead: x.instead}
	}
	return nil
}

func unknownIn(n *nameRule, what string, known []string, file string) error {
	instead := "remove it"
	why := file + " has no " + what + " of this name"
	if near := document.Nearest(n.Name, known); near != "" {
		why += "; the nearest is " + near
		instead = "write " + near + ", or remove it"
	}
	return badValue(n.Where, n.Name, why, instead)
}

func fileName(f *File) string {
	if f == nil {
		return "this host"
	}
	return f.Name
}

// grants are what an agent's tools and lists give it, to close the lists of
// layers that say "only what was granted" without saying what.
type grants struct {
	agent     *Agent
	programs  ExecList
	endpoints EndpointList
}

func (f *File) grants(a *Agent) grants {
	g := grants{agent: a}
	if a == nil {
		return g
	}
	g.programs.Origin, g.endpoints.Origin = a.Origin, a.Origin
	for _, name := range a.Granted {
		t := f.Tool(name)
		g.programs.Programs = append(g.programs.Programs, t.Programs...)
		g.endpoints.Endpoints = append(g.endpoints.Endpoints, t.Endpoints...)
	}
	for _, l := range a.exec.Allow {
		g.programs.Programs = append(g.programs.Programs, l.Programs...)
	}
	for _, l := range a.network.Allow {
		g.endpoints.Endpoints = append(g.endpoints.Endpoints, l.Endpoints...)
	}
	g.programs.Programs = canonical(g.programs.Programs)
	g.endpoints.Endpoints = canonical(g.endpoints.Endpoints)
	return g
}

// with returns the rules of a request whose lists are all written out. What an
// agent lists is in addition to its tools; what others list is alone.
func (q request) with(g grants) rules {
	r := q.rules
	if q.runsGranted != nil || q.entry && len(r.exec.Allow) > 0 {
		r.exec.Allow = []ExecList{g.programs.or(q.runsGranted)}
	}
	if q.reachesGranted != nil || q.entry && len(r.network.Allow) > 0 {
		r.network.Allow = []EndpointList{g.endpoints.or(q.reachesGranted)}
	}
	return r
}

// or gives an empty list the origin of the rule that asks for it.
func (l ExecList) or(o *Origin) ExecList {
	if len(l.Programs) == 0 && o != nil {
		l.Origin = *o
	}
	return l
}

func (l EndpointList) or(o *Origin) EndpointList {
	if len(l.Endpoints) == 0 && o != nil {
		l.Origin = *o
	}
	return l
}

// checkRuns refuses a policy under which not even the container's own command
// could start.
func (p *Policy) checkRuns() error {
	for _, l := range p.Exec.Allow {
		if len(l.Programs) == 0 {
			return &Refusal{
				Rule: "exec.allow", Origin: l.Origin, What: "to start a container",
				Why:     "only listed programs may run, and none is listed",
				Instead: "list the programs that it needs, at least its command",
			}
		}
	}
	return nil
}
