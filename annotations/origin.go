package annotations

import "cmp"

// Layer is what a rule came from. Each layer can only narrow what the ones
// before it left.
type Layer string

// The layers, in their order.
const (
	// LayerBaseline is what is built in and needs no file.
	LayerBaseline Layer = "baseline"
	// LayerCeiling is the ceiling of the host's policy file.
	LayerCeiling Layer = "ceiling"
	// LayerCatalog is the policy file's catalog of tools.
	LayerCatalog Layer = "catalog"
	// LayerAgent is an agent's entry in the policy file.
	LayerAgent Layer = "agent"
	// LayerAnnotation is the container's own annotations.
	LayerAnnotation Layer = "annotation"
	// LayerFlag is what the engine was asked for, as the OCI spec shows it.
	LayerFlag Layer = "flag"
)

func (l Layer) rank() int {
	for i, known := range []Layer{LayerBaseline, LayerCeiling, LayerCatalog, LayerAgent, LayerAnnotation, LayerFlag} {
		if l == known {
			return i
		}
	}
	return -1
}

// Origin is where a rule came from.
type Origin struct {
	Layer Layer `json:"layer"`
	// Where is the place: file:line, an annotation's key, or a flag.
	Where string `json:"where,omitempty"`
}

// baseline is the origin of what is built in.
var baseline = Origin{Layer: LayerBaseline}

// Describe names the layer and the place.
func (o Origin) Describe() string {
	if o.Where == "" {
		return string(o.Layer)
	}
	return string(o.Layer) + ", " + o.Where
}

func (o Origin) from() Origin { return o }

func (o Origin) compare(p Origin) int {
	return cmp.Or(cmp.Compare(o.Layer.rank(), p.Layer.rank()), cmp.Compare(len(o.Where), len(p.Where)), cmp.Compare(o.Where, p.Where))
}
