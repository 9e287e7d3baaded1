package vmtest

import (
	"bytes"
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"testing"
)

// writeImage writes an EROFS image with the program as /init and the empty
// folders that an init mounts things on. It is the least that the kernel reads:
// compact inodes, no compression, everything in whole blocks. An image of the
// tests' own lets them run without mkfs.erofs, inside any root.
func writeImage(t *testing.T, path, program string) {
	t.Helper()
	init, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	const (
		block  = 4096
		folder = 4
		slot   = 32 // an inode's number counts these from the inodes' block on
	)
	folders := []string{"dev", "mnt", "proc", "sys"}
	le := binary.LittleEndian

	image := make([]byte, 3*block)
	super := image[1024:]
	le.PutUint32(super[0:], 0xE0F5E1E2)
	super[12] = 12              // block size, log2
	le.PutUint16(super[14:], 0) // the root's inode number
	le.PutUint64(super[16:], uint64(len(folders)+2))
	le.PutUint32(super[40:], 1) // the block of the inodes

	inode := func(nid int, mode uint16, size, start uint32) {
		b := image[block+nid*slot:]
		le.PutUint16(b[4:], mode)
		le.PutUint16(b[6:], 2) // links
		le.PutUint32(b[8:], size)
		le.PutUint32(b[16:], start)
		le.PutUint32(b[20:], uint32(nid+1))
	}
	// entries makes the block of a folder; names must be in byte order.
	type entry struct {
		name string
		nid  int
		kind byte
	}
	entries := func(self int, more ...entry) []byte {
		all := append([]entry{{".", self, 2}, {"..", 0, 2}}, more...)
		slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.name, b.name) })
		out := make([]byte, 12*len(all))
		for i, e := range all {
			le.PutUint64(out[12*i:], uint64(e.nid))
			le.PutUint16(out[12*i+8:], uint16(len(out)))
			out[12*i+10] = e.kind
			out = append(out, e.name...)
		}
		return out
	}
	next := uint32(2)
	var blocks bytes.Buffer
	add := func(nid int, mode uint16, data []byte) {
		inode(nid, mode, uint32(len(data)), next)
		padded := (len(data) + block - 1) / block * block
		blocks.Write(data)
		blocks.Write(make([]byte, padded-len(data)))
		next += uint32(padded / block)
	}
	root := []entry{{"init", 1, 1}}
	for i, name := range folders {
		root = append(root, entry{name, folder + i, 2})
		add(folder+i, 0o40755, entries(folder+i))
	}
	add(0, 0o40755, entries(0, root...))
	add(1, 0o100755, init)
	le.PutUint32(super[36:], next)
	image = append(image[:2*block], blocks.Bytes()...)
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
}
