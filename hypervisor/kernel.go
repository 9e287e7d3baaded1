package hypervisor

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// CheckKernel refuses a file that a hypervisor could not enter directly, as
// Config.Kernel must be. QEMU itself takes anything, boots it as a kernel of the
// 1990s, and then nothing happens.
func CheckKernel(path string) error {
	f, err := elf.Open(path)
	if unread := new(fs.PathError); errors.As(err, &unread) {
		return fmt.Errorf("the guest kernel %s cannot be read: %w", path, unread.Err)
	}
	if err != nil {
		return fmt.Errorf("the guest kernel %s is no uncompressed kernel (vmlinux): %w", path, err)
	}
	defer func() { _ = f.Close() }()
	if f.Machine != elf.EM_X86_64 {
		return fmt.Errorf("the guest kernel %s is for %v, not for x86-64", path, f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		notes, err := io.ReadAll(io.LimitReader(p.Open(), maxNotes))
		if err != nil {
			return fmt.Errorf("read the notes of the guest kernel %s: %w", path, err)
		}
		if hasPVHEntry(notes) {
			return nil
		}
	}
	return fmt.Errorf("the guest kernel %s has no PVH entry; build it with CONFIG_PVH=y", path)
}

// CheckImage refuses a guest's disk that cannot be read. What is on it the guest
// finds out.
func CheckImage(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("the guest image cannot be read: %w", err)
	}
	st, err := f.Stat()
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("the guest image cannot be read: %w", err)
	}
	if st.IsDir() {
		return fmt.Errorf("the guest image %s is a folder", path)
	}
	return nil
}

// maxNotes bounds what is read of one note segment; a kernel's has about 500 bytes.
const maxNotes = 64 << 10

// pvhEntry is XEN_ELFNOTE_PHYS32_ENTRY.
const pvhEntry = 18

// hasPVHEntry looks for the note that holds the entry point.
func hasPVHEntry(notes []byte) bool {
	for {
		name, kind, rest, err := nextNote(notes)
		if err != nil {
			return false
		}
		if kind == pvhEntry && bytes.Equal(name, []byte("Xen\x00")) {
			return true
		}
		notes = rest
	}
}

var errShortNote = errors.New("the note is cut short")

// nextNote splits one note off: three words, a name and a value, both padded.
func nextNote(b []byte) (name []byte, kind uint32, rest []byte, err error) {
	const header = 12
	if len(b) < header {
		return nil, 0, nil, errShortNote
	}
	padded := func(n uint32) uint64 { return (uint64(n) + 3) &^ 3 }
	nameLen, valueLen := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
	end := header + padded(nameLen) + padded(valueLen)
	if end > uint64(len(b)) {
		return nil, 0, nil, errShortNote
	}
	return b[header : header+nameLen], binary.LittleEndian.Uint32(b[8:]), b[end:], nil
}
