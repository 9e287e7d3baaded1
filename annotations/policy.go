package annotations

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Mode says what becomes of a decision.
type Mode string

// ModeEnforce blocks what is denied.
const ModeEnforce Mode = "enforce"

// Policy is what one container may do. It is a value to be read: nothing changes
// it after [Compile].
type Policy struct {
	Version int  `json:"version"`
	Mode    Mode `json:"mode"`
	// Container is the container's id.
	Container string `json:"container"`
	Mounts    Mounts `json:"mounts"`
	Limits    Limits `json:"limits"`
	// Network is the namespace that the container's network is in.
	Network Network `json:"network"`
	// Privileged is set where the container asked for every privilege. It has
	// them inside the VM; the host's devices, which come with them in the spec,
	// are dropped by [Policy.Apply].
	Privileged bool `json:"privileged"`
}

// Mounts are the rules about what of the host's files is shared.
type Mounts struct {
	// Refuse are host places that are never shared.
	Refuse []Place `json:"refuse"`
	// Engine are the engine's data folders, as the spec shows them.
	Engine []string `json:"engine,omitempty"`
	// Allow, where it is set, is everything that may be mounted.
	Allow *Allow `json:"allow,omitempty"`
	// Readonly are the destinations that are mounted read-only whatever was
	// asked; "*" stands for all.
	Readonly []Readonly `json:"readonly,omitempty"`
}

// Place is a host place that is never shared.
type Place struct {
	// Path is absolute; or one or more names, matched at any depth: ".ssh",
	// ".config/gcloud".
	Path string `json:"path"`
	// Kind says what it is, for the message: "a credential folder".
	Kind string `json:"kind"`
	// Rule names the rule; Layer is where it came from.
	Rule  string `json:"rule"`
	Layer Layer  `json:"layer"`
}

// Allow is a closed list of destinations.
type Allow struct {
	Destinations []AllowedMount `json:"destinations"`
	Layer        Layer          `json:"layer"`
}

// AllowedMount is one destination of an [Allow].
type AllowedMount struct {
	Destination string `json:"destination"`
	Write       bool   `json:"write"`
}

// Readonly is a destination that is forced to be read-only.
type Readonly struct {
	Destination string `json:"destination"`
	Layer       Layer  `json:"layer"`
}

// Limits bound what the container can take. Nil: no bound by the policy.
type Limits struct {
	// CPUs is in thousandths of a CPU, Memory in bytes, Pids a number of tasks.
	CPUs   *Limit `json:"millicpus,omitempty"`
	Memory *Limit `json:"memory,omitempty"`
	Pids   *Limit `json:"pids,omitempty"`
}

// Limit is one bound.
type Limit struct {
	Value int64 `json:"value"`
	Layer Layer `json:"layer"`
}

// Network is the container's network namespace.
type Network struct {
	// Namespace is the path of an existing network namespace to join; empty: a
	// new one of its own.
	Namespace string `json:"namespace,omitempty"`
}

// Input is what a policy is compiled from.
type Input struct {
	// ID is the container's id.
	ID string
	// Annotations are the container's; only those that are [Ours] are read.
	Annotations map[string]string
	// Spec is the OCI spec as the engine wrote it. It is not changed.
	Spec *specs.Spec
}

// Compile returns the effective policy of a container, or a [Refusal] of the
// first thing in its annotations or its spec that no policy can allow. Mounts
// are judged later, by [Policy.CheckMount], when it is known what they resolve
// to.
func Compile(in Input) (*Policy, error) {
	if in.Spec == nil || in.Spec.Linux == nil {
		return nil, fmt.Errorf("the OCI spec of container %s has no linux section", quote(in.ID))
	}
	p := &Policy{
		Version:   1,
		Mode:      ModeEnforce,
		Container: in.ID,
		Mounts:    Mounts{Refuse: baselinePlaces(), Engine: engineFolders(in.ID, in.Spec)},
	}
	if err := checkFlags(p, in.Spec); err != nil {
		return nil, err
	}
	if err := narrow(p, in.Annotations); err != nil {
		return nil, err
	}
	if err := checkDestinations(p, in.Spec); err != nil {
		return nil, err
	}
	return p, nil
}

// Digest identifies the policy: the SHA-256 of its JSON form, in hexadecimal.
func (p *Policy) Digest() string {
	b, err := json.Marshal(p)
	if err != nil {
		// Strings, numbers and booleans only: it cannot fail.
		panic(fmt.Sprintf("encode policy: %v", err))
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
