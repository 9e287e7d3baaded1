package annotations

import (
	"github.com/nanoclaw/nanoclaw/annotations/pattern"
)

// Mode says what becomes of a decision.
type Mode string

// The modes, from the widest to the narrowest.
const (
	// ModeAudit records what the agent's entry and the annotations would deny of
	// programs, mounts and the network, and lets it pass. [Policy.Held] is what
	// stays denied.
	ModeAudit Mode = "audit"
	// ModeEnforce blocks what is denied.
	ModeEnforce Mode = "enforce"
)

// Policy is what one container may do. It is a value to be read: nothing changes
// it after [Compile].
type Policy struct {
	Version int  `json:"version"`
	Mode    Mode `json:"mode"`
	// From is where the mode came from; nil is the baseline.
	From *Origin `json:"from,omitempty"`
	// Firm is what is in force in the mode audit, see [Policy.Held]; nil in every
	// other.
	Firm *Policy `json:"firm,omitempty"`
	// Container is the container's id.
	Container string `json:"container"`
	// Peers are the ids of the containers in whose network, and so in whose VM,
	// it is.
	Peers []string `json:"peers,omitempty"`
	// Agent is the agent's name; empty: the baseline.
	Agent  string `json:"agent,omitempty"`
	Mounts Mounts `json:"mounts"`
	Limits Limits `json:"limits"`
	// Ceiling are the limits above which a request is refused.
	Ceiling Limits `json:"ceiling"`
	Exec    Exec   `json:"exec"`
	// Network is the namespace that the container's network is in, and what can
	// be reached from it.
	Network Network `json:"network"`
	// Tools is nil where there is no rule about tools: for a container without
	// an agent.
	Tools *Tools `json:"tools,omitempty"`
	// Secrets are what the granted tools need, and where each may be used.
	Secrets []Secret `json:"secrets,omitempty"`
	// Privileged is set where the container asked for every privilege. It has
	// them inside the VM; the host's devices, which come with them in the spec,
	// are dropped by [Policy.Apply].
	Privileged bool `json:"privileged"`
}

// Tools are the catalog's tools, as far as there are rules about them.
type Tools struct {
	Open   []ToolRule `json:"open,omitempty"`
	Closed []ToolRule `json:"closed,omitempty"`
}

// ToolRule is one tool, and what opened or closed it.
type ToolRule struct {
	Name string `json:"name"`
	Risk Risk   `json:"risk"`
	// Readonly is set, to where that came from, where the tool and what it
	// starts cannot write.
	Readonly *Origin `json:"readonly,omitempty"`
	Origin
}

// Risk says whether what a tool does can be undone.
type Risk string

// The risks. Every use of an irreversible tool is asked about.
const (
	RiskReversible   Risk = "reversible"
	RiskIrreversible Risk = "irreversible"
)

// Secret is a value that the host keeps, and that is used for the container at
// certain hosts.
type Secret struct {
	// Env is its name, and the variable that stands for it.
	Env string `json:"env"`
	// Source is where the host finds the value: "file:/path".
	Source string `json:"source,omitempty"`
	// Hosts are where it may be sent.
	Hosts []pattern.Endpoint `json:"hosts"`
	Tool  string             `json:"tool"`
	Origin
}

// Mounts are the rules about what of the host's files is shared.
type Mounts struct {
	// Refuse are host places that are never shared.
	Refuse []Place `json:"refuse"`
	// Engine are the engine's data folders, as the spec shows them.
	Engine []string `json:"engine,omitempty"`
	// Images are the folders at which the engine mounted images for this
	// container; known on the host only.
	Images []string `json:"-"`
	// Sources are closed lists of host folders: what is mounted must lie in one
	// of each. Volumes need not.
	Sources []SourceList `json:"sources,omitempty"`
	// Tools are host folders that belong to tools.
	Tools []ToolMount `json:"tools,omitempty"`
	// Allow are closed lists of destinations: a mount's must be in each.
	Allow []Allow `json:"allow,omitempty"`
	// Readonly are the destinations that are mounted read-only whatever was
	// asked; "*" stands for all.
	Readonly []Readonly `json:"readonly,omitempty"`
	// Hide are what is covered below a mount.
	Hide []Hide `json:"hide,omitempty"`
}

// Place is a host place that is never shared.
type Place struct {
	// Path is absolute; or one or more names, matched at any depth: ".ssh",
	// ".config/gcloud".
	Path string `json:"path"`
	// Kind says what it is, for the message: "a credential folder".
	Kind string `json:"kind"`
	// Rule names the rule; the Origin is where it came from.
	Rule string `json:"rule"`
	Origin
}

// SourceList is a closed list of host folders.
type SourceList struct {
	Sources []AllowedSource `json:"sources"`
	Origin
}

// AllowedSource is one folder of a [SourceList].
type AllowedSource struct {
	Source string `json:"source"`
	Write  bool   `json:"write"`
	Origin
}

// ToolMount is a host folder that belongs to a tool.
type ToolMount struct {
	Source string `json:"source"`
	Tool   string `json:"tool"`
	// Open is whether the tool is granted; Write whether it may write there.
	Open  bool `json:"open"`
	Write bool `json:"write"`
	Origin
}

// Allow is a closed list of destinations.
type Allow struct {
	Destinations []AllowedMount `json:"destinations"`
	Origin
}

// AllowedMount is one destination of an [Allow].
type AllowedMount struct {
	Destination string `json:"destination"`
	Write       bool   `json:"write"`
	Origin
}

// Readonly is a destination that is forced to be read-only.
type Readonly struct {
	Destination string `json:"destination"`
	Origin
}

// Hide is a pattern of paths in the container that are covered.
type Hide struct {
	Pattern string `json:"pattern"`
	Origin
}

// Limits bound what the container can take. Nil: no bound by the policy.
type Limits struct {
	// CPUs is in thousandths of a CPU, Memory in bytes, Pids a number of tasks,
	// Lifetime in seconds.
	CPUs     *Limit `json:"millicpus,omitempty"`
	Memory   *Limit `json:"memory,omitempty"`
	Pids     *Limit `json:"pids,omitempty"`
	Lifetime *Limit `json:"lifetime,omitempty"`
}

// Limit is one bound.
type Limit struct {
	Value int64 `json:"value"`
	Origin
}

func (s AllowedSource) key() string { return access(s.Source, s.Write) }
func (l SourceList) key() string    { return keysOf(l.Sources) }
func (m AllowedMount) key() string  { return access(m.Destination, m.Write) }
func (a Allow) key() string         { return keysOf(a.Destinations) }
func (r Readonly) key() string      { return r.Destination }
func (h Hide) key() string          { return h.Pattern }

func access(path string, write bool) string {
	if write {
		return path + ":rw"
	}
	return path + ":ro"
}
