package document

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// YAML reads a document. One without content is an empty object.
func YAML(data []byte) (*Node, error) {
	if len(data) > MaxBytes {
		return nil, &Error{1, fmt.Sprintf("it is larger than %d bytes", MaxBytes)}
	}
	if !utf8.Valid(data) {
		return nil, &Error{1 + bytes.Count(data[:firstInvalid(data)], []byte("\n")), "it is not UTF-8"}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var root yaml.Node
	switch err := decoder.Decode(&root); {
	case errors.Is(err, io.EOF):
		return &Node{Kind: Object, Line: 1}, nil
	case err != nil:
		return nil, syntax(err)
	}
	var second yaml.Node
	if err := decoder.Decode(&second); err == nil {
		return nil, &Error{second.Line, "a second document begins; there can be only one"}
	} else if !errors.Is(err, io.EOF) {
		return nil, syntax(err)
	}
	if len(root.Content) != 1 {
		return &Node{Kind: Object, Line: 1}, nil
	}
	return fromYAML(root.Content[0], 0, &budget{})
}

func firstInvalid(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return len(data)
}

// syntax gives an error of the parser its line, which it has only in its text.
func syntax(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	e := &Error{Line: 1, Text: "it is not YAML: " + text}
	var line int
	if _, scanErr := fmt.Sscanf(text, "line %d:", &line); scanErr == nil {
		_, rest, _ := strings.Cut(text, ": ")
		e.Line, e.Text = line, "it is not YAML: "+rest
	}
	return e
}

func fromYAML(y *yaml.Node, depth int, b *budget) (*Node, error) {
	if err := b.take(y.Line, depth); err != nil {
		return nil, err
	}
	switch {
	case y.Kind == yaml.AliasNode, y.Anchor != "":
		return nil, &Error{y.Line, "it uses an anchor or an alias (& or *); write the value out, in quotes if it begins with one of them"}
	case y.Style&yaml.TaggedStyle != 0:
		return nil, &Error{y.Line, "it uses a tag (!)"}
	}
	n := &Node{Line: y.Line}
	switch y.Kind {
	case yaml.ScalarNode:
		n.Text = y.Value
		n.Kind = scalar(y)
	case yaml.SequenceNode:
		n.Kind = List
		for _, item := range y.Content {
			child, err := fromYAML(item, depth+1, b)
			if err != nil {
				return nil, err
			}
			n.Items = append(n.Items, child)
		}
	case yaml.MappingNode:
		n.Kind = Object
		seen := map[string]int{}
		for i := 0; i+1 < len(y.Content); i += 2 {
			key := y.Content[i]
			if key.Kind != yaml.ScalarNode || key.Anchor != "" || key.Tag == "!!merge" {
				return nil, &Error{key.Line, "a key is not a plain word"}
			}
			child, err := fromYAML(y.Content[i+1], depth+1, b)
			if err != nil {
				return nil, err
			}
			if err := n.add(seen, Field{Key: key.Value, Line: key.Line, Value: child}); err != nil {
				return nil, err
			}
		}
	default:
		return nil, &Error{y.Line, "it has a value of an unknown kind"}
	}
	return n, nil
}

func scalar(y *yaml.Node) Kind {
	switch y.Tag {
	case "!!bool":
		return Bool
	case "!!int", "!!float":
		return Number
	case "!!null":
		return Null
	}
	return Text
}
