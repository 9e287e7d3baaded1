package intercept

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// scrubChunk is how much is read at a time.
	scrubChunk = 32 << 10
	// heldTime is how long the beginning of a value is held back for the rest of it.
	heldTime = time.Second
)

// pair is a text, and what takes its place.
type pair struct{ old, replacement []byte }

// pairs are the forms in which a server could send values back that are known
// here, with their placeholders, or, with sameLength, with so much of them that
// nothing moves.
func pairs(values []value, sameLength bool) []pair {
	var all []pair
	add := func(old, placeholder string) {
		p := pair{[]byte(old), []byte(placeholder)}
		if sameLength {
			p.replacement = bytes.Repeat([]byte("*"), len(old))
			copy(p.replacement, placeholder)
		}
		all = append(all, p)
	}
	for _, v := range values {
		if v.missing {
			continue
		}
		add(v.value, v.placeholder)
		if q := url.QueryEscape(v.value); q != v.value {
			add(q, v.placeholder)
		}
	}
	return all
}

// scrubFields replaces values in a head.
func scrubFields(h http.Header, values []value) {
	for _, p := range pairs(values, false) {
		for _, fields := range h {
			for i := range fields {
				fields[i] = strings.ReplaceAll(fields[i], string(p.old), string(p.replacement))
			}
		}
	}
}

// scrubber is a stream in which texts are replaced. What may be the beginning of
// one is held back until there is more, or for a moment: whoever waits for the
// last byte of a message must get it.
type scrubber struct {
	from  io.ReadCloser
	pairs []pair

	ready, held []byte
	err         error
	buffer      [scrubChunk]byte
	// pending is a read that is under way, nil if there is none.
	pending chan chunk
}

type chunk struct {
	n   int
	err error
}

func (s *scrubber) Read(p []byte) (int, error) {
	for len(s.ready) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		s.fill()
	}
	n := copy(p, s.ready)
	s.ready = s.ready[n:]
	return n, nil
}

// fill gets more to be ready, or an error.
func (s *scrubber) fill() {
	c, ok := s.next()
	if !ok {
		s.ready, s.held = replace(s.held, s.pairs, true)
		return
	}
	all := make([]byte, 0, len(s.held)+c.n)
	all = append(append(all, s.held...), s.buffer[:c.n]...)
	s.err = c.err
	s.ready, s.held = replace(all, s.pairs, c.err != nil)
}

// next reads. It gives up after a moment, and is asked again, where something is
// held back.
func (s *scrubber) next() (chunk, bool) {
	if s.pending == nil {
		if len(s.held) == 0 {
			n, err := s.from.Read(s.buffer[:])
			return chunk{n, err}, true
		}
		pending := make(chan chunk, 1)
		s.pending = pending
		go func() {
			n, err := s.from.Read(s.buffer[:])
			pending <- chunk{n, err}
		}()
	}
	var patience <-chan time.Time
	if len(s.held) > 0 {
		timer := time.NewTimer(heldTime)
		defer timer.Stop()
		patience = timer.C
	}
	select {
	case c := <-s.pending:
		s.pending = nil
		return c, true
	case <-patience:
		return chunk{}, false
	}
}

func (s *scrubber) Close() error { return s.from.Close() }

// replace replaces texts, and returns what may be the beginning of one apart,
// unless it is the last.
func replace(all []byte, pairs []pair, last bool) (done, held []byte) {
	// at is where each is next.
	at := make([]int, len(pairs))
	for i, p := range pairs {
		at[i] = bytes.Index(all, p.old)
	}
	from, keep := 0, 0
	for {
		if !last {
			keep = beginning(all[from:], pairs)
		}
		first := -1
		for i, p := range pairs {
			if at[i] >= 0 && at[i] < from {
				if at[i] = bytes.Index(all[from:], p.old); at[i] >= 0 {
					at[i] += from
				}
			}
			if at[i] >= 0 && (first < 0 || at[i] < at[first] || at[i] == at[first] && len(p.old) > len(pairs[first].old)) {
				first = i
			}
		}
		// A longer one may have begun before it.
		if first < 0 || at[first] >= len(all)-keep {
			break
		}
		done = append(append(done, all[from:at[first]]...), pairs[first].replacement...)
		from = at[first] + len(pairs[first].old)
	}
	rest := all[from:]
	if done == nil {
		return rest[:len(rest)-keep], rest[len(rest)-keep:]
	}
	return append(done, rest[:len(rest)-keep]...), rest[len(rest)-keep:]
}

// beginning is how much of the end of b is the beginning of a text.
func beginning(b []byte, pairs []pair) int {
	keep := 0
	for _, p := range pairs {
		from := max(0, len(b)-len(p.old)+1)
		for {
			next := bytes.IndexByte(b[from:], p.old[0])
			if next < 0 {
				break
			}
			from += next
			if bytes.HasPrefix(p.old, b[from:]) {
				keep = max(keep, len(b)-from)
				break
			}
			from++
		}
	}
	return keep
}
