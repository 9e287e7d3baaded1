// Package document reads a YAML or JSON document into a tree in which every
// value knows its line, and is strict about what a tree is: no key twice, no
// anchors, aliases or tags, one document, bounded in size, depth and number of
// values.
//
// It knows nothing of what the keys mean. It is there because a policy's errors
// are all reported at once, each with its line, which decoding into structs
// cannot do.
package document

import "fmt"

// Bounds of a document.
const (
	// MaxBytes is the largest document.
	MaxBytes = 256 << 10
	// MaxDepth is how deep lists and objects may nest.
	MaxDepth = 12
	// MaxValues is how many values a document may have.
	MaxValues = 20000
)

// Kind is what a value is.
type Kind string

// The kinds of values.
const (
	Text   Kind = "a text"
	Bool   Kind = "true or false"
	Number Kind = "a number"
	Null   Kind = "nothing"
	List   Kind = "a list"
	Object Kind = "an object"
)

// Node is a value.
type Node struct {
	Kind Kind
	// Line counts from 1.
	Line int
	// Text is a scalar as it was written, without quotes.
	Text string
	// Items are a list's.
	Items []*Node
	// Fields are an object's, in their order.
	Fields []Field
}

// Field is one key of an object and its value.
type Field struct {
	Key   string
	Line  int
	Value *Node
}

// Get returns the value of a key, or nil.
func (n *Node) Get(key string) *Node {
	for _, f := range n.Fields {
		if f.Key == key {
			return f.Value
		}
	}
	return nil
}

// Error is what is wrong with a document, and where.
type Error struct {
	Line int
	Text string
}

func (e *Error) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Text) }

// budget bounds a tree while it is built.
type budget struct{ values int }

func (b *budget) take(line, depth int) error {
	if b.values++; b.values > MaxValues {
		return &Error{line, fmt.Sprintf("it has more than %d values", MaxValues)}
	}
	if depth > MaxDepth {
		return &Error{line, fmt.Sprintf("it nests deeper than %d", MaxDepth)}
	}
	return nil
}

// add appends a field unless its key is there already.
func (n *Node) add(seen map[string]int, f Field) error {
	if first, twice := seen[f.Key]; twice {
		return &Error{f.Line, fmt.Sprintf("the key %.60q is there twice, first in line %d", f.Key, first)}
	}
	seen[f.Key] = f.Line
	n.Fields = append(n.Fields, f)
	return nil
}
