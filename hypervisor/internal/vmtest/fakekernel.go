package vmtest

import (
	"encoding/binary"
	"os"
	"testing"
)

// FakeKernel writes an ELF file that is nothing but a PVH note, for tests
// in which nothing boots it.
func FakeKernel(t *testing.T, path string) {
	t.Helper()
	le := binary.LittleEndian
	n := "\x04\x00\x00\x00\x04\x00\x00\x00\x12\x00\x00\x00Xen\x00\x00\x00\x00\x01"
	b := make([]byte, 64+56)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 2)  // executable
	le.PutUint16(b[18:], 62) // x86-64
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[32:], 64) // program headers
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 1)
	le.PutUint16(b[58:], 64)
	le.PutUint32(b[64:], 4) // note
	le.PutUint64(b[64+8:], uint64(len(b)))
	le.PutUint64(b[64+32:], uint64(len(n)))
	le.PutUint64(b[64+40:], uint64(len(n)))
	if err := os.WriteFile(path, append(b, n...), 0o600); err != nil {
		t.Fatal(err)
	}
}
