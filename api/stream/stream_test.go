package stream

import (
	"bytes"
	"errors"

	"io"
	"strings"
	"testing"
	"time"

	"github.com/nanoclaw/nanoclaw/api/stream/streamtest"
)

// only is a connection that takes the answers of a Reader of r.
func only(r io.Reader) io.ReadWriter {
	return struct {
		io.Reader
		io.Writer
	}{r, io.Discard}
}

func TestHeaderRoundTrip(t *testing.T) {
	for _, kind := range []Kind{Stdin, Stdout, Stderr, DNS} {
		var buf bytes.Buffer
		want := Header{Kind: kind, ID: "0123abcd"}
		if err := WriteHeader(&buf, want); err != nil {
			t.Fatal(err)
		}
		buf.WriteString("rest")
		got, err := ReadHeader(&buf)
		if err != nil || got != want {
			t.Fatalf("ReadHeader = %v, %v; want %v", got, err, want)
		}
		if buf.String() != "rest" {
			t.Fatalf("ReadHeader took bytes of the first frame: %q is left", buf.String())
		}
	}
}

func TestReadHeaderRefuses(t *testing.T) {
	for _, in := range []string{
		"nanoclaw/1 stdin XYZ\n",
		"nanoclaw/1 other 00\n",
		"nanoclaw/2 stdin 00\n",
		"nanoclaw/1 stdin\n",
		"nanoclaw/1 stdin " + strings.Repeat("0", 65) + "\n",
		strings.Repeat("x", 4096),
	} {
		if _, err := ReadHeader(strings.NewReader(in)); !errors.Is(err, ErrHeader) {
			t.Errorf("ReadHeader(%.40q) = %v, want ErrHeader", in, err)
		}
	}
}

func TestStreamCarriesEverythingThenEOF(t *testing.T) {
	sender, receiver := streamtest.Pipe()
	want := bytes.Repeat([]byte("0123456789abcdef"), 3*MaxFrame/16+1)
	done := make(chan error, 1)
	go func() {
		w := NewWriter(sender)
		_, err := w.Write(want)
		if err == nil && w.Sent() != uint64(len(want)) {
			err = errors.New("Sent does not count every byte")
		}
		done <- errors.Join(err, w.CloseStream(10*time.Second))
	}()
	got, err := io.ReadAll(NewReader(receiver))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read %d bytes, %v; want %d", len(got), err, len(want))
	}
	if err := receiver.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestASlowReceiverHoldsTheSenderBack(t *testing.T) {
	sender, receiver := streamtest.Pipe()
	defer func() { _ = receiver.Close() }()
	written := make(chan int, 16)
	go func() {
		w := NewWriter(sender)
		for n := 1; ; n++ {
			if _, err := w.Write([]byte("x")); err != nil {
				close(written)
				return
			}
			written <- n
		}
	}()
	// Frames are taken, but not consumed.
	for range window {
		if _, err := io.ReadFull(receiver, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		<-written
	}
	select {
	case n := <-written:
		t.Fatalf("frame %d was sent while %d were not consumed", n, window)
	case <-time.After(50 * time.Millisecond):
	}
}

func TestReaderTellsACutFromAnEnd(t *testing.T) {
	for _, in := range []string{"", "\x00\x00", "\x00\x00\x00\x05abc"} {
		if _, err := io.ReadAll(NewReader(only(strings.NewReader(in)))); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("reading %q ended with %v, want io.ErrUnexpectedEOF", in, err)
		}
	}
}

func TestReaderRefusesLongFrames(t *testing.T) {
	if _, err := io.ReadAll(NewReader(only(strings.NewReader("\xff\xff\xff\xffabc")))); !errors.Is(err, ErrFrame) {
		t.Fatalf("got %v, want ErrFrame", err)
	}
}

func TestDNSRoundTrip(t *testing.T) {
	var buf bytes.Buffer
	want := DNSMessage{Tag: 7, Transport: TCP, Message: bytes.Repeat([]byte{1}, dnsHeader)}
	if err := WriteDNS(&buf, want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadDNS(&buf)
	if err != nil || got.Tag != want.Tag || got.Transport != want.Transport || !bytes.Equal(got.Message, want.Message) {
		t.Fatalf("ReadDNS = %+v, %v; want %+v", got, err, want)
	}
	if err := WriteDNS(&buf, DNSMessage{Message: make([]byte, MaxDNSMessage+1)}); !errors.Is(err, ErrFrame) {
		t.Fatalf("WriteDNS of an oversized message = %v, want ErrFrame", err)
	}
}

func FuzzReadHeader(f *testing.F) {
	f.Add([]byte("nanoclaw/1 stdin 00ff\n"))
	f.Add([]byte("nanoclaw/1 dns 00\nrest"))
	f.Add([]byte("nanoclaw/1 stdout ../x\n"))
	f.Add([]byte("nanoclaw/1  stderr 00\n"))
	f.Add([]byte("nanoclaw/1 stderr 00\r\n"))
	f.Add(bytes.Repeat([]byte("0"), maxHeader+1))
	f.Fuzz(func(t *testing.T, in []byte) {
		h, err := ReadHeader(bytes.NewReader(in))
		if err == nil && (!h.Kind.valid() || !ValidID(h.ID)) {
			t.Fatalf("accepted %+v", h)
		}
	})
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x03abc\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x01\x00\x01"))
	f.Add([]byte("\x00\x00\x40\x01one more than the longest frame"))
	f.Add([]byte("\x00\x00\x00\x01a\x00\x00\x00\x01b\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x00after the end"))
	f.Fuzz(func(t *testing.T, in []byte) {
		out, err := io.ReadAll(NewReader(only(bytes.NewReader(in))))
		if len(out) > len(in) {
			t.Fatalf("%d bytes out of %d, %v", len(out), len(in), err)
		}
	})
}

func FuzzReadDNS(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x11\x00\x00\x00\x01\x000123456789ab"))
	f.Add([]byte("\x00\x00\x00\x11\x00\x00\x00\x01\x020123456789ab")) // no transport
	f.Add([]byte("\x00\x00\x00\x10\x00\x00\x00\x01\x000123456789a"))  // too short
	f.Add([]byte("\x00\x01\x00\x01\x00\x00\x00\x01\x00"))
	f.Add([]byte("\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := ReadDNS(bytes.NewReader(in))
		if err == nil && (len(m.Message) < dnsHeader || len(m.Message) > MaxDNSMessage) {
			t.Fatalf("accepted a message of %d bytes", len(m.Message))
		}
	})
}
