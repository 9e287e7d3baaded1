// Package fullspec makes OCI documents in which every field has a value, by the
// types of the specification itself, so that a field of a later version is in
// them too. It is for tests that check what becomes of each field, and says
// nothing about whether such a document could be run.
package fullspec

import (
	"reflect"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Document returns the JSON form of a value of type T in which each field is set:
// strings to "x", numbers to 7, lists and maps to one element. A field's path is the
// names in JSON, with dots and without indices, such as "process.rlimits.hard". One
// that instead names has that value, or, where it is nil, is not there.
func Document[T any](instead map[string]any) map[string]any {
	document, _ := value(reflect.TypeFor[T](), "", instead).(map[string]any)
	return document
}

// platforms are the parts of a specification for other systems than Linux, which
// are about nothing that this one knows.
var platforms = []reflect.Type{
	reflect.TypeFor[specs.Solaris](), reflect.TypeFor[specs.Windows](), reflect.TypeFor[specs.VM](),
	reflect.TypeFor[specs.ZOS](), reflect.TypeFor[specs.FreeBSD](),
}

func value(t reflect.Type, path string, instead map[string]any) any {
	if v, ok := instead[path]; ok {
		return v
	}
	switch t.Kind() {
	case reflect.Pointer:
		return value(t.Elem(), path, instead)
	case reflect.Slice:
		return []any{value(t.Elem(), path, instead)}
	case reflect.Map:
		return map[string]any{"x": value(t.Elem(), path, instead)}
	case reflect.Struct:
		m := map[string]any{}
		for _, p := range platforms {
			if t == p {
				return m
			}
		}
		fields(m, t, path, instead)
		return m
	case reflect.String:
		return "x"
	case reflect.Bool:
		return true
	default:
		return float64(7)
	}
}

func fields(m map[string]any, t reflect.Type, path string, instead map[string]any) {
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			fields(m, f.Type, path, instead)
			continue
		}
		if v := value(f.Type, strings.TrimPrefix(path+"."+name, "."), instead); v != nil {
			m[name] = v
		}
	}
}

// Leaves returns all values of a document by their paths. A path has several where
// it leads through a list.
func Leaves(document any) map[string][]any {
	leaves := map[string][]any{}
	collect(leaves, "", document)
	return leaves
}

func collect(leaves map[string][]any, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, child := range v {
			collect(leaves, strings.TrimPrefix(path+"."+name, "."), child)
		}
		if len(v) == 0 {
			leaves[path] = append(leaves[path], nil)
		}
	case []any:
		for _, child := range v {
			collect(leaves, path, child)
		}
	default:
		leaves[path] = append(leaves[path], v)
	}
}
