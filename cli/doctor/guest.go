package doctor

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/shim/config"
)

const installs = "make install puts both there, from the project's folder"

// guest looks at what a VM boots.
func guest(c config.Config) Section {
	s := Section{Name: "Guest"}
	for _, f := range []struct {
		name, path string
		check      func(string) error
	}{
		{"kernel", c.Kernel, hypervisor.CheckKernel},
		{"image", c.Image, checkImage},
	} {
		err := f.check(f.path)
		var found string
		if err == nil {
			found, err = describe(f.path)
		}
		if err != nil {
			s.add(f.name, Problem, installs, "%v", err)
			continue
		}
		s.add(f.name, OK, "", "%s", found)
	}
	return s
}

// erofsMagic begins the superblock, which lies at erofsOffset.
var erofsMagic = []byte{0xe2, 0xe1, 0xf5, 0xe0}

const erofsOffset = 1024

// checkImage looks at what the guest would find out only while it boots.
func checkImage(path string) error {
	if err := hypervisor.CheckImage(path); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("the guest image cannot be read: %w", err)
	}
	defer func() { _ = f.Close() }()
	magic := make([]byte, len(erofsMagic))
	if _, err := f.ReadAt(magic, erofsOffset); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("the guest image cannot be read: %w", err)
	}
	if !bytes.Equal(magic, erofsMagic) {
		return fmt.Errorf("the guest image %s is no EROFS file system", path)
	}
	return nil
}

func describe(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s: %d bytes, sha256:%x", path, n, h.Sum(nil)), nil
}
