package document

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// JSON reads a document.
func JSON(data []byte) (*Node, error) {
	if len(data) > MaxBytes {
		return nil, &Error{1, fmt.Sprintf("it is larger than %d bytes", MaxBytes)}
	}
	if !utf8.Valid(data) {
		return nil, &Error{1, "it is not UTF-8"}
	}
	r := &jsonReader{data: data, Decoder: json.NewDecoder(bytes.NewReader(data))}
	r.UseNumber()
	n, err := r.value(0)
	if err != nil {
		return nil, err
	}
	if _, err := r.Token(); !errors.Is(err, io.EOF) {
		return nil, &Error{r.line(), "something follows the object"}
	}
	return n, nil
}

type jsonReader struct {
	*json.Decoder
	data   []byte
	budget budget
}

func (r *jsonReader) line() int {
	return 1 + bytes.Count(r.data[:min(r.InputOffset(), int64(len(r.data)))], []byte("\n"))
}

func (r *jsonReader) value(depth int) (*Node, error) {
	token, err := r.Token()
	if err != nil {
		return nil, &Error{r.line(), "it is not JSON: " + err.Error()}
	}
	n := &Node{Line: r.line()}
	if err := r.budget.take(n.Line, depth); err != nil {
		return nil, err
	}
	switch t := token.(type) {
	case string:
		n.Kind, n.Text = Text, t
	case bool:
		n.Kind, n.Text = Bool, fmt.Sprint(t)
	case json.Number:
		n.Kind, n.Text = Number, t.String()
	case nil:
		n.Kind = Null
	case json.Delim:
		if t == '[' {
			return n, r.list(n, depth)
		}
		return n, r.object(n, depth)
	}
	return n, nil
}

func (r *jsonReader) list(n *Node, depth int) error {
	n.Kind = List
	for r.More() {
		item, err := r.value(depth + 1)
		if err != nil {
			return err
		}
		n.Items = append(n.Items, item)
	}
	return r.end()
}

func (r *jsonReader) object(n *Node, depth int) error {
	n.Kind = Object
	seen := map[string]int{}
	for r.More() {
		key, err := r.Token()
		if err != nil {
			return &Error{r.line(), "it is not JSON: " + err.Error()}
		}
		name, ok := key.(string)
		if !ok {
			return &Error{r.line(), "it is not JSON: a key is not a text"}
		}
		line := r.line()
		value, err := r.value(depth + 1)
		if err != nil {
			return err
		}
		if err := n.add(seen, Field{Key: name, Line: line, Value: value}); err != nil {
			return err
		}
	}
	return r.end()
}

func (r *jsonReader) end() error {
	if _, err := r.Token(); err != nil {
		return &Error{r.line(), "it is not JSON: " + err.Error()}
	}
	return nil
}
