package container

import (
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/containerd/errdefs"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ourFolder is where a container finds what is for it from its host. It is in a
// file system in memory, so that nothing of it is left in the root file system.
const ourFolder = "/dev/nanoclaw"

// bundleFiles is the folder of the bundle that holds the host's files.
const bundleFiles = "files"

// devInMemory reports whether the container's /dev is.
func devInMemory(spec *specs.Spec) bool {
	inMemory := false
	for i := range spec.Mounts {
		if m := &spec.Mounts[i]; path.Clean(m.Destination) == "/dev" {
			inMemory = m.Type == "tmpfs"
		}
	}
	return inMemory
}

// show has the container see a file of the bundle in our folder.
func show(spec *specs.Spec, source, name string) {
	spec.Mounts = append(spec.Mounts, specs.Mount{
		Destination: path.Join(ourFolder, name), Type: "bind", Source: source, Options: []string{"bind", "ro", "nosuid", "nodev", "noexec"},
	})
}

// shareFiles makes the host's files in the bundle, and has the container see
// them. Where it cannot, the container must not start: it would not know whom to
// trust.
func shareFiles(bundle string, spec *specs.Spec, files []*agent.File) error {
	if len(files) == 0 {
		return nil
	}
	if !devInMemory(spec) {
		return fmt.Errorf("the container's /dev is not in memory, so there is no place for %s: %w", ourFolder, errdefs.ErrFailedPrecondition)
	}
	if len(files) > agent.MaxFiles {
		return fmt.Errorf("%d files, over %d: %w", len(files), agent.MaxFiles, errdefs.ErrInvalidArgument)
	}
	dir := filepath.Join(bundle, bundleFiles)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make the folder of the host's files: %w", err)
	}
	for _, f := range files {
		if !validFile(f.GetName()) || len(f.GetContent()) > agent.MaxFileBytes {
			return fmt.Errorf("the file %.70q of %d bytes: %w", f.GetName(), len(f.GetContent()), errdefs.ErrInvalidArgument)
		}
		name := filepath.Join(dir, f.GetName())
		if err := writeNew(name, f.GetContent()); err != nil {
			return fmt.Errorf("make the file %s: %w", f.GetName(), err)
		}
		show(spec, name, f.GetName())
	}
	return nil
}

func writeNew(name string, content []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o444)
	if err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// validFile reports whether name is 1 to 64 bytes of [a-z0-9.-] that begin with a
// letter, and not the name of the file that the agent makes itself.
func validFile(name string) bool {
	if name == "" || len(name) > 64 || name == refusalsName {
		return false
	}
	for i, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z':
		case i > 0 && (c >= '0' && c <= '9' || c == '.' || c == '-'):
		default:
			return false
		}
	}
	return true
}
