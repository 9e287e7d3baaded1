package task

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
)

// bundles are where distributions keep the authorities that programs trust.
var bundles = []string{
	"etc/ssl/certs/ca-certificates.crt",
	"etc/pki/tls/certs/ca-bundle.crt",
	"etc/ssl/ca-bundle.pem",
	"etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
	"etc/ssl/cert.pem",
}

// maxBundle leaves room for one authority more.
const maxBundle = agent.MaxFileBytes - 8<<10

// imageBundle is the authorities that the container's own programs trust, as they
// are in its root file system; nil where there are none. Whatever the image has
// there, a link included, leads to nothing outside of it.
func imageBundle(rootfs string) ([]byte, error) {
	root, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the container's root file system: %w", err)
	}
	defer func() { _ = unix.Close(root) }()
	for _, name := range bundles {
		fd, err := unix.Openat2(root, name, &unix.OpenHow{
			Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if err != nil {
			continue
		}
		content, err := readBundle(os.NewFile(uintptr(fd), name))
		if err != nil {
			return nil, fmt.Errorf("read the image's certificate authorities, /%s: %w", name, err)
		}
		if content != nil {
			return content, nil
		}
	}
	return nil, nil
}

// readBundle reads and closes a file. What is no regular file has nothing in it.
func readBundle(f *os.File) ([]byte, error) {
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil
	}
	content, err := io.ReadAll(io.LimitReader(f, maxBundle+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxBundle {
		return nil, errors.New("it is too long for a list of authorities")
	}
	return content, nil
}
