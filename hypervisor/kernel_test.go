package hypervisor

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// note encodes an ELF note.
func note(name string, kind uint32, value string) []byte {
	pad := func(s string) string { return s + strings.Repeat("\x00", (4-len(s)%4)%4) }
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(name)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(value)))
	b = binary.LittleEndian.AppendUint32(b, kind)
	return append(b, pad(name)+pad(value)...)
}

func TestHasPVHEntry(t *testing.T) {
	other := note("Linux\x00", 257, "abc")
	entry := note("Xen\x00", pvhEntry, "\x00\x00\x00\x01")
	for name, c := range map[string]struct {
		notes []byte
		want  bool
	}{
		"none":       {nil, false},
		"others":     {other, false},
		"alone":      {entry, true},
		"after":      {append(append([]byte{}, other...), entry...), true},
		"other kind": {note("Xen\x00", 17, "abcd"), false},
		"other name": {note("Xeno", pvhEntry, "abcd"), false},
		"cut short":  {entry[:len(entry)-1], false},
		"huge":       {[]byte("\xff\xff\xff\xff\xff\xff\xff\xff\x12\x00\x00\x00"), false},
	} {
		if got := hasPVHEntry(c.notes); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestCheckKernelNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vmlinuz")
	if err := os.WriteFile(path, []byte("MZ"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{path, path + "-absent"} {
		if err := CheckKernel(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("got %v", err)
		}
	}
	// This very program is an ELF file for the right machine, and no kernel.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckKernel(self); err == nil || !strings.Contains(err.Error(), "PVH") {
		t.Errorf("got %v", err)
	}
}

func FuzzHasPVHEntry(f *testing.F) {
	f.Add(note("Linux\x00", 257, "abc"))
	f.Add(note("Xen\x00", pvhEntry, "\x00\x00\x00\x01"))
	f.Fuzz(func(_ *testing.T, b []byte) { hasPVHEntry(b) })
}

func TestCheckImageNamesTheFile(t *testing.T) {
	image := filepath.Join(t.TempDir(), "guest.img")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := CheckImage(image); err != nil {
		t.Error(err)
	}
	for _, path := range []string{image + "-none", filepath.Dir(image)} {
		if err := CheckImage(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
