package attempts

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Store keeps copies of this program, self, in a folder of the file system that
// the containers' files will be on.
func Store(store, self string) error {
	if err := os.MkdirAll(store, 0o755); err != nil {
		return err
	}
	for _, name := range []string{Self, Args, Readonly} {
		if err := copyFile(filepath.Join(store, filepath.Base(name)), self); err != nil {
			return err
		}
	}
	return nil
}

// World makes the files of an attempt's container below root. The larger of them
// are those of the store, by a link: an emulator knows their code already. They
// are left out for an attempt that does without.
func World(root, store, attempt string) error {
	at := func(name string) string { return filepath.Join(root, name) }
	for _, dir := range []string{"bin", "usr/bin", "tmp", "work", "proc", "sys", "dev", "etc"} {
		if err := os.MkdirAll(at(dir), 0o755); err != nil {
			return err
		}
	}
	large := []string{Self}
	subject, _, _ := strings.Cut(attempt, "-")
	switch subject {
	case "args", "change":
		large = append(large, Args)
	case "readonly", "listed":
		large = append(large, Readonly)
	case "allowed", "would":
		large = append(large, Args, Readonly)
	}
	for _, name := range large {
		if err := os.Link(filepath.Join(store, filepath.Base(name)), at(name)); err != nil {
			return err
		}
	}
	for _, name := range []string{Image, Denied, Hidden, Asked} {
		if err := os.WriteFile(at(name), tiny(Marker+"\n"), 0o755); err != nil { //nolint:gosec // a program
			return err
		}
	}
	return os.WriteFile(at(File), []byte("content\n"), 0o644) //nolint:gosec // anybody's
}

func copyFile(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}

const loadAddress = 0x400000

// tiny is the smallest program that prints a text: a static ELF file for x86-64.
func tiny(text string) []byte {
	code := []byte{
		0xb8, 1, 0, 0, 0, // mov eax, SYS_write
		0xbf, 1, 0, 0, 0, // mov edi, 1
		0xbe, 0, 0, 0, 0, // mov esi, the text's address
		0xba, 0, 0, 0, 0, // mov edx, its length
		0x0f, 0x05, // syscall
		0xb8, 60, 0, 0, 0, // mov eax, SYS_exit
		0x31, 0xff, // xor edi, edi
		0x0f, 0x05, // syscall
	}
	return program(loadAddress, code, 11, 16, text)
}

// tiny32 prints by way of the 32-bit system calls.
func tiny32(text string) []byte {
	code := []byte{
		0xb8, 4, 0, 0, 0, // mov eax, 32-bit SYS_write
		0xbb, 1, 0, 0, 0, // mov ebx, 1
		0xb9, 0, 0, 0, 0, // mov ecx, the text's address
		0xba, 0, 0, 0, 0, // mov edx, its length
		0xcd, 0x80, // int 0x80
		0xb8, 1, 0, 0, 0, // mov eax, 32-bit SYS_exit
		0x31, 0xdb, // xor ebx, ebx
		0xcd, 0x80, // int 0x80
	}
	return program(loadAddress, code, 11, 16, text)
}

// crashing is a program that does what no processor knows.
func crashing() []byte { return program(loadAddress, []byte{0x0f, 0x0b, 0, 0, 0, 0, 0, 0}, 2, 4, "") }

// sleeping is a program that waits for its end.
func sleeping() []byte {
	return program(loadAddress, []byte{
		0xb8, 34, 0, 0, 0, // mov eax, SYS_pause
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // and again
		0, 0, 0, 0, 0, 0, 0, 0,
	}, 9, 13, "")
}

// interpreted is a program that another is to load, elsewhere than where those
// above are.
func interpreted(by string) []byte {
	const interpreter = 3
	f := program(2*loadAddress, []byte{0x0f, 0x0b, 0, 0, 0, 0, 0, 0, 0, 0}, 2, 6, "")
	head := append([]byte{}, f[:64]...)
	binary.LittleEndian.PutUint16(head[56:], 2)
	second := make([]byte, 56)
	le := binary.LittleEndian
	le.PutUint32(second, interpreter)
	name := append([]byte(by), 0)
	le.PutUint64(second[8:], uint64(len(f)+len(second)))
	le.PutUint64(second[32:], uint64(len(name)))
	le.PutUint64(second[40:], uint64(len(name)))
	whole := append(append(append(head, second...), f[64:]...), name...)
	return whole
}

func program(base uint64, code []byte, address, length int, text string) []byte {
	const header = 64 + 56
	le := binary.LittleEndian
	le.PutUint32(code[address:], uint32(base)+uint32(header+len(code)))
	le.PutUint32(code[length:], uint32(len(text)))
	f := make([]byte, header, header+len(code)+len(text))
	copy(f, "\x7fELF\x02\x01\x01")
	le.PutUint16(f[16:], 2)  // ET_EXEC
	le.PutUint16(f[18:], 62) // x86-64
	le.PutUint32(f[20:], 1)
	le.PutUint64(f[24:], base+header)
	le.PutUint64(f[32:], 64)
	le.PutUint16(f[52:], 64)
	le.PutUint16(f[54:], 56)
	le.PutUint16(f[56:], 1)
	p := f[64:]
	le.PutUint32(p, 1)     // PT_LOAD
	le.PutUint32(p[4:], 5) // R, X
	le.PutUint64(p[16:], base)
	le.PutUint64(p[24:], base)
	size := uint64(header + len(code) + len(text))
	le.PutUint64(p[32:], size)
	le.PutUint64(p[40:], size)
	le.PutUint64(p[48:], 0x1000)
	return append(append(f, code...), text...)
}
