package guest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"testing/iotest"
)

// from is a connection that can only be read.
type from struct {
	net.Conn
	io.Reader
}

func (f from) Read(p []byte) (int, error) { return f.Reader.Read(p) }

func message(payload string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(payload))), "\x00\x00\x00\x01\x02\x00"+payload...)
}

func TestAnswersAreFollowed(t *testing.T) {
	for name, tt := range map[string]struct {
		asked int
		in    []byte
		bad   bool
	}{
		"nothing":            {0, nil, false},
		"one to one":         {1, message("x"), false},
		"an empty one":       {1, message(""), false},
		"two to two":         {2, append(message("first"), message("second")...), false},
		"fewer than asked":   {3, message("x"), false},
		"half of one":        {1, message("x")[:7], false},
		"one to none":        {0, message("x"), true},
		"two to one":         {1, append(message("first"), message("second")...), true},
		"one that is longer": {1, []byte("\x00\x20\x00\x01\x00\x00\x00\x01\x02\x00"), true},
		"the longest":        {1, []byte("\x00\x20\x00\x00\x00\x00\x00\x01\x02\x00"), false},
	} {
		for _, whole := range []bool{true, false} {
			var r io.Reader = bytes.NewReader(tt.in)
			if !whole {
				r = iotest.OneByteReader(r)
			}
			a := &answers{Conn: from{Reader: r}}
			for range tt.asked {
				a.expect()
			}
			out, err := io.ReadAll(a)
			if errors.Is(err, errTooMuch) != tt.bad || !tt.bad && !bytes.Equal(out, tt.in) {
				t.Errorf("%s (at once: %v): %q, %v", name, whole, out, err)
			}
		}
	}
}

// How a message is cut by the connection makes no difference.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte{}, uint8(0))
	f.Add(message("x"), uint8(1))
	f.Add(append(message("first"), message("second")...), uint8(2))
	f.Add([]byte("\xff\xff\xff\xff\x00\x00\x00\x01\x02\x00"), uint8(1))
	f.Fuzz(func(t *testing.T, in []byte, asked uint8) {
		var verdicts [2]bool
		for i, r := range []io.Reader{bytes.NewReader(in), iotest.OneByteReader(bytes.NewReader(in))} {
			a := &answers{Conn: from{Reader: r}}
			for range asked {
				a.expect()
			}
			out, err := io.ReadAll(a)
			verdicts[i] = err == nil
			if len(out) > len(in) || a.came > int64(asked)+1 || len(a.header) >= answerHeader {
				t.Fatalf("%d bytes became %d, %d answers of %d", len(in), len(out), a.came, asked)
			}
		}
		if verdicts[0] != verdicts[1] {
			t.Fatalf("read at once %v, byte by byte %v", verdicts[0], verdicts[1])
		}
	})
}

func TestAnswersHaveFewFields(t *testing.T) {
	field := []byte{0x0a, 0x00}
	for name, tt := range map[string]struct {
		answer []byte
		bad    bool
	}{
		"nothing":   {nil, false},
		"as many":   {bytes.Repeat(field, maxFields), false},
		"one more":  {bytes.Repeat(field, maxFields+1), true},
		"cut off":   {[]byte{0x0a, 0x05, 'x'}, true},
		"no number": {[]byte{0xff, 0xff}, true},
	} {
		if err := fewFields(tt.answer); errors.Is(err, errTooMuch) != tt.bad {
			t.Errorf("%s: %v", name, err)
		}
	}
}
