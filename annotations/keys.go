package annotations

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nanoclaw/nanoclaw/annotations/document"
)

// Prefix begins every annotation that is ours. The keys are a public contract:
// people write them in Compose files and scripts.
const Prefix = "io.nanoclaw."

// The keys.
const (
	KeyAgent          = Prefix + "agent"
	KeyTools          = Prefix + "tools"
	KeyReadonlyTools  = Prefix + "readonly-tools"
	KeyExecMode       = Prefix + "exec.mode"
	KeyExecAllow      = Prefix + "exec.allow"
	KeyExecDeny       = Prefix + "exec.deny"
	KeyExecAsk        = Prefix + "exec.ask"
	KeyMountsAllow    = Prefix + "mounts.allow"
	KeyMountsReadonly = Prefix + "mounts.readonly"
	KeyMountsHide     = Prefix + "mounts.hide"
	KeyNetwork        = Prefix + "network"
	KeyNetworkAllow   = Prefix + "network.allow"
	KeyNetworkDeny    = Prefix + "network.deny"
	KeyNetworkAsk     = Prefix + "network.ask"
	KeySecrets        = Prefix + "secrets"
	KeyLimitsCPUs     = Prefix + "limits.cpus"
	KeyLimitsMemory   = Prefix + "limits.memory"
	KeyLimitsPids     = Prefix + "limits.pids"
	KeyLimitsLifetime = Prefix + "limits.lifetime"
	KeyMode           = Prefix + "mode"
	KeyPolicy         = Prefix + "policy"
)

// shape is how an annotation's value is turned into a value of a document.
type shape int

const (
	one     shape = iota // a scalar
	several              // a list, separated by commas
	either               // true, or a list
	object               // a JSON object
)

// keys holds every known key: the shape of its value, what reads it, and what
// must be enforced for it to mean something. A key without a capability needs
// what the rules need that come of it.
var keys = map[string]struct {
	shape shape
	read  func(*reader, *document.Node, *request)
	needs Capability
}{
	KeyAgent:          {one, (*reader).agentName, ""},
	KeyTools:          {several, (*reader).tools, ""},
	KeyReadonlyTools:  {either, (*reader).readonlyTools, ""},
	KeyExecMode:       {one, (*reader).execMode, CapExec},
	KeyExecAllow:      {several, (*reader).execAllow, CapExec},
	KeyExecDeny:       {several, (*reader).execDeny, CapExec},
	KeyExecAsk:        {several, (*reader).execAsk, CapExec},
	KeyMountsAllow:    {several, (*reader).mountsAllow, ""},
	KeyMountsReadonly: {several, (*reader).mountsReadonly, ""},
	KeyMountsHide:     {several, (*reader).mountsHide, CapHide},
	KeyNetwork:        {one, (*reader).networkMode, CapNetwork},
	KeyNetworkAllow:   {several, (*reader).networkAllow, CapNetwork},
	KeyNetworkDeny:    {several, (*reader).networkDeny, CapNetwork},
	KeyNetworkAsk:     {several, (*reader).networkAsk, CapNetwork},
	KeySecrets:        {several, (*reader).secrets, ""},
	KeyLimitsCPUs:     {one, limitKey("cpus"), ""},
	KeyLimitsMemory:   {one, limitKey("memory"), ""},
	KeyLimitsPids:     {one, limitKey("pids"), ""},
	KeyLimitsLifetime: {one, limitKey("lifetime"), CapLifetime},
	KeyMode:           {one, (*reader).mode, ""},
	KeyPolicy:         {object, (*reader).policyObject, ""},
}

func limitKey(name string) func(*reader, *document.Node, *request) {
	return func(r *reader, n *document.Node, q *request) { r.limit(n, name, q) }
}

// maxValue bounds an annotation's value, in bytes.
const maxValue = 32 << 10

// maxAnnotations bounds how many of them are ours.
const maxAnnotations = 64

// Ours reports whether an annotation's key is in our namespace, however it is
// written: a key that only differs in case is a mistake to be refused, not
// somebody else's annotation.
func Ours(key string) bool {
	k := strings.ToLower(key)
	return strings.HasPrefix(k, Prefix) || k == strings.TrimSuffix(Prefix, ".")
}

// Supported returns the keys that a caller can enforce that has these
// capabilities, sorted.
func Supported(has ...Capability) []string {
	var s []string
	for k, spec := range keys {
		if spec.needs == "" || slices.Contains(has, spec.needs) {
			s = append(s, k)
		}
	}
	slices.Sort(s)
	return s
}

// readAnnotations reads all that are ours into one request for each place that
// rules were written in: the keys together, and io.nanoclaw.policy.
func readAnnotations(annotations map[string]string, enforced Enforced) ([]request, error) {
	var single request
	requests := []request{}
	count := 0
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if !Ours(key) {
			continue
		}
		spec, known := keys[key]
		if !known {
			return nil, unknownKey(key, enforced)
		}
		value := annotations[key]
		if len(value) > maxValue {
			return nil, badValue(key, value, "it is longer than 32 KiB", "shorten it")
		}
		if count++; count > maxAnnotations {
			return nil, badValue(key, value, fmt.Sprintf("there are more than %d annotations of nanoclaw", maxAnnotations), "remove some")
		}
		target := &single
		if spec.shape == object {
			requests = append(requests, request{})
			target = &requests[len(requests)-1]
		}
		if err := readAnnotation(key, value, target); err != nil {
			return nil, err
		}
	}
	requests = append(requests, single)
	for i := range requests {
		requests[i].complete()
	}
	return requests, nil
}

func readAnnotation(key, value string, into *request) error {
	spec := keys[key]
	r := &reader{layer: LayerAnnotation, plain: spec.shape != object, where: func(int) string { return key }}
	n, err := valueNode(spec.shape, value)
	if err != nil {
		return badValue(key, value, err.Error(), "write the same object as in an agent's entry of the policy file, as JSON")
	}
	spec.read(r, n, into)
	if len(r.problems) > 0 {
		p := r.problems[0]
		if p.Instead == "" {
			p.Instead = "correct it"
		}
		return badValue(key, value, p.What, p.Instead)
	}
	return nil
}

func valueNode(s shape, value string) (*document.Node, error) {
	text := func(s string) *document.Node { return &document.Node{Kind: document.Text, Line: 1, Text: s} }
	switch {
	case s == object:
		return document.JSON([]byte(value))
	case s == one, s == either && (value == "true" || value == "false"):
		return text(value), nil
	}
	n := &document.Node{Kind: document.List, Line: 1}
	for _, item := range list(value) {
		n.Items = append(n.Items, text(item))
	}
	return n, nil
}

// list splits at commas; an empty value is an empty list.
func list(value string) []string {
	var items []string
	for item := range strings.SplitSeq(value, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

func (r *reader) agentName(n *document.Node, q *request) {
	if s, ok := r.name(n, "the agent"); ok {
		q.agent = &nameRule{Name: s, Origin: r.origin(n)}
	}
}

// policyObject reads io.nanoclaw.policy: what the other keys say, as one object
// with the keys of an agent's entry.
func (r *reader) policyObject(n *document.Node, q *request) {
	f := r.shared(q)
	f["agent"] = func(n *document.Node) { r.agentName(n, q) }
	f["tools"] = func(n *document.Node) { r.tools(n, q) }
	f["readonly_tools"] = func(n *document.Node) { r.readonlyTools(n, q) }
	r.object(n, "the policy", f)
}

func unknownKey(key string, enforced Enforced) error {
	r := &Refusal{
		Rule: "annotation", Origin: baseline,
		What:    "the annotation " + quote(key),
		Why:     "there is no such key",
		Instead: "remove it, or use one of " + strings.Join(Supported(enforced...), ", "),
	}
	known := slices.Collect(maps.Keys(keys))
	if near := document.Nearest(strings.ToLower(key), known); near != "" {
		r.Why += "; the nearest is " + near
		if needs := keys[near].needs; needs != "" && !enforced.Has(needs) {
			r.Why += ", which is not supported by this version of nanoclaw"
		} else {
			r.Instead = "write " + near + ", or remove it"
		}
	}
	return r
}

func badValue(key, value, why, instead string) error {
	return &Refusal{
		Rule: "annotation", Origin: Origin{Layer: LayerAnnotation},
		What: "the annotation " + key + "=" + quote(value), Why: why, Instead: instead,
	}
}
