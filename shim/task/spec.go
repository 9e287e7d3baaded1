package task

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// readSpec reads the specification of the container in bundle. What is in it and
// unknown to this version is named.
func readSpec(bundle string) (_ *specs.Spec, unknown []string, err error) {
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, nil, fmt.Errorf("read the bundle: %w", err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, nil, fmt.Errorf("read the bundle's config.json: %w", err)
	}
	if spec.Linux == nil || spec.Root == nil || spec.Process == nil {
		return nil, nil, fmt.Errorf("the bundle's config.json lacks linux, root or process: %w", errdefs.ErrInvalidArgument)
	}
	unknown, err = unread(data, &spec)
	return &spec, unknown, err
}

// unread names the fields of a JSON document that were lost in reading it into v:
// an engine may write what a later version of the specification has.
func unread(document []byte, v any) ([]string, error) {
	known, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var before, after any
	for from, into := range map[*[]byte]*any{&document: &before, &known: &after} {
		if err := json.Unmarshal(*from, into); err != nil {
			return nil, err
		}
	}
	var names []string
	missing(&names, "", before, after)
	slices.Sort(names)
	return slices.Compact(names), nil
}

func missing(names *[]string, path string, before, after any) {
	switch before := before.(type) {
	case map[string]any:
		known, _ := after.(map[string]any)
		for name, value := range before {
			path := strings.TrimPrefix(path+"."+name, ".")
			if other, ok := known[name]; ok {
				missing(names, path, value, other)
			} else if !empty(value) {
				*names = append(*names, path+": this version of nanoclaw does not know the field")
			}
		}
	case []any:
		known, _ := after.([]any)
		for i, value := range before {
			if i < len(known) {
				missing(names, path, value, known[i])
			}
		}
	}
}

// empty reports whether a value is one that a known field is left out for.
func empty(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		for _, child := range v {
			if !empty(child) {
				return false
			}
		}
		return true
	case []any:
		return len(v) == 0
	case string:
		return v == ""
	case bool:
		return !v
	case float64:
		return v == 0
	}
	return v == nil
}
