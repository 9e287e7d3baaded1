package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
)

// maxLine bounds a line, in bytes, without its newline.
const maxLine = 32 << 10

// noHash is the Prev of the first record.
const noHash = "0000000000000000000000000000000000000000000000000000000000000000"

const (
	hashMember = `,"hash":"`
	// tailBytes is the length of a line's end: ,"hash":"<64>"}
	tailBytes = len(hashMember) + 2*sha256.Size + len(`"}`)
)

// Errors of decode.
var (
	errShape = errors.New("it is no record")
	errHash  = errors.New("its hash does not fit its content")
)

// encode returns the record's line with its newline, and sets its hash.
func encode(r *Record) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	// The characters that HTML minds are left as they are: people read this.
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return nil, fmt.Errorf("encode an audit record: %w", err)
	}
	body := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	r.Hash = chain(r.Prev, body)
	line := append(body[:len(body)-1], hashMember...)
	line = append(line, r.Hash...)
	line = append(line, '"', '}')
	if len(line) > maxLine {
		return nil, fmt.Errorf("encode an audit record: it has %d bytes, the most is %d", len(line), maxLine)
	}
	return append(line, '\n'), nil
}

// decode reads a line without its newline. It checks that the line's hash is
// right; that it follows another line is the caller's to check.
func decode(line []byte) (Record, error) {
	if len(line) > maxLine || len(line) <= tailBytes {
		return Record{}, errShape
	}
	body, tail := line[:len(line)-tailBytes], line[len(line)-tailBytes:]
	hash, found := bytes.CutPrefix(tail, []byte(hashMember))
	hash, ends := bytes.CutSuffix(hash, []byte(`"}`))
	if !found || !ends || !isHash(string(hash)) {
		return Record{}, errShape
	}
	full := append(bytes.Clone(body), '}')
	var r Record
	if err := json.Unmarshal(full, &r); err != nil {
		return Record{}, fmt.Errorf("%w: %w", errShape, err)
	}
	if !isHash(r.Prev) || r.Seq == 0 {
		return Record{}, errShape
	}
	r.Hash, r.line = string(hash), bytes.Clone(line)
	if chain(r.Prev, full) != r.Hash {
		return Record{}, errHash
	}
	return r, nil
}

// chain is the hash of a record: of the previous one's, as it is written, and of
// the line without the member that holds the hash.
func chain(prev string, body []byte) string {
	h := sha256.New()
	h.Write([]byte(prev))
	h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}

// isHash is strict about the case of letters: a changed bit is a change.
func isHash(s string) bool {
	if len(s) != 2*sha256.Size {
		return false
	}
	for i := range len(s) {
		if (s[i] < '0' || s[i] > '9') && (s[i] < 'a' || s[i] > 'f') {
			return false
		}
	}
	return true
}
