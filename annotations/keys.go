package annotations

import (
	"maps"
	"slices"
	"strings"
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

// handler narrows p by the value of one annotation.
type handler func(p *Policy, value string) error

// keys holds every known key. A nil handler marks one that this version knows
// and cannot enforce.
var keys = map[string]handler{
	KeyAgent:          nil,
	KeyTools:          nil,
	KeyReadonlyTools:  nil,
	KeyExecMode:       nil,
	KeyExecAllow:      nil,
	KeyExecDeny:       nil,
	KeyExecAsk:        nil,
	KeyMountsAllow:    mountsAllow,
	KeyMountsReadonly: mountsReadonly,
	KeyMountsHide:     nil,
	KeyNetwork:        nil,
	KeyNetworkAllow:   nil,
	KeyNetworkDeny:    nil,
	KeyNetworkAsk:     nil,
	KeySecrets:        nil,
	KeyLimitsCPUs:     limitsCPUs,
	KeyLimitsMemory:   limitsMemory,
	KeyLimitsPids:     limitsPids,
	KeyLimitsLifetime: nil,
	KeyMode:           mode,
	KeyPolicy:         nil,
}

// maxValue bounds an annotation's value, in bytes.
const maxValue = 32 << 10

// Ours reports whether an annotation's key is in our namespace, however it is
// written: a key that only differs in case is a mistake to be refused, not
// somebody else's annotation.
func Ours(key string) bool {
	k := strings.ToLower(key)
	return strings.HasPrefix(k, Prefix) || k == strings.TrimSuffix(Prefix, ".")
}

// narrow applies the annotations to p, in the order of their keys.
func narrow(p *Policy, annotations map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if !Ours(key) {
			continue
		}
		apply, known := keys[key]
		switch {
		case !known:
			return unknownKey(key)
		case apply == nil:
			return &Refusal{
				Rule: "annotation", Layer: LayerBaseline,
				What:    "the annotation " + quote(key),
				Why:     "it is not supported by this version of nanoclaw, and a restriction that is not enforced must not be accepted",
				Instead: "remove it, or use one of " + strings.Join(Supported(), ", "),
			}
		}
		value := annotations[key]
		if len(value) > maxValue {
			return badValue(key, value, "it is longer than 32 KiB", "shorten it")
		}
		if err := apply(p, value); err != nil {
			return err
		}
	}
	return nil
}

// Supported returns the keys that this version enforces, sorted.
func Supported() []string {
	var s []string
	for k, h := range keys {
		if h != nil {
			s = append(s, k)
		}
	}
	slices.Sort(s)
	return s
}

func unknownKey(key string) error {
	r := &Refusal{
		Rule: "annotation", Layer: LayerBaseline,
		What:    "the annotation " + quote(key),
		Why:     "there is no such key",
		Instead: "remove it, or use one of " + strings.Join(Supported(), ", "),
	}
	if near := nearest(strings.ToLower(key)); near != "" {
		r.Why += "; the nearest is " + near
		if keys[near] == nil {
			r.Why += ", which is not supported by this version of nanoclaw"
		} else {
			r.Instead = "write " + near + ", or remove it"
		}
	}
	return r
}

func badValue(key, value, why, instead string) error {
	return &Refusal{
		Rule: "annotation", Layer: LayerAnnotation,
		What: "the annotation " + key + "=" + quote(value), Why: why, Instead: instead,
	}
}

// nearest returns the known key that is the fewest edits away from key, or
// nothing where none is close.
func nearest(key string) string {
	if len(key) > 2*len(KeyLimitsLifetime) {
		return ""
	}
	best, distance := "", 1+len(strings.TrimPrefix(key, Prefix))/2
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		if d := edits(key, k); d < distance {
			best, distance = k, d
		}
	}
	return best
}

// edits is the Levenshtein distance of a and b.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
