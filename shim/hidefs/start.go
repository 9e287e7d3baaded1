package hidefs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/internal/process"
)

// startTimeout bounds how long the process may take to begin.
const startTimeout = 10 * time.Second

// View is a folder without what is hidden in it.
type View struct {
	// Folder is a descriptor of a mount that is attached nowhere.
	Folder *os.File
	// Destination is where the container will have it, in whose words the
	// Patterns are.
	Destination string
	Patterns    []string
	// Attributes are the new mount's.
	Attributes uint64
	// Place is where it will be attached; the process has it among its arguments.
	Place string
}

// Mount returns a mount of the view that is attached nowhere yet, and the process
// that serves it. start starts it; it ends with the mount.
func Mount(v View, start func(*exec.Cmd) error) (mount *os.File, p *process.Process, err error) {
	told, err := json.Marshal(task{Destination: v.Destination, Patterns: v.Patterns})
	if err != nil {
		return nil, nil, err
	}
	mount, device, err := attach(v.Attributes)
	if err != nil {
		return nil, nil, err
	}
	// Closed here once the process has it: the file system ends with the process.
	defer func() { _ = device.Close() }()
	defer func() {
		if err != nil {
			err = errors.Join(err, mount.Close())
		}
	}()
	ready, said, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = ready.Close() }()

	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{program, v.Place}, Env: []string{}, Dir: "/",
		Stdin: bytes.NewReader(told), ExtraFiles: []*os.File{device, v.Folder, said},
	}
	p, err = process.Start(start, program, cmd)
	_ = said.Close()
	if err != nil {
		return nil, nil, err
	}
	if err := ready.SetReadDeadline(time.Now().Add(startTimeout)); err != nil {
		<-p.Killed()
		return nil, nil, err
	}
	if _, err := io.ReadFull(ready, make([]byte, 1)); err != nil {
		<-p.Killed()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, nil, fmt.Errorf("%s did not begin within %s", program, startTimeout)
		}
		return nil, nil, p.Failure()
	}
	return mount, p, nil
}

// Check reports what hidden names need of the host and do not find. It needs root.
func Check() error {
	mount, device, err := attach(0)
	if err != nil {
		return err
	}
	// First, so that nobody waits for an answer of the file system's.
	return errors.Join(device.Close(), mount.Close())
}

// attach makes a file system, and the descriptor by which it is served.
func attach(attributes uint64) (mount, device *os.File, err error) {
	// Blocking, as the process wants it.
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open the host's FUSE, /dev/fuse (modprobe fuse): %w", err)
	}
	device = os.NewFile(uintptr(fd), "fuse")
	if mount, err = newMount(fd, attributes); err != nil {
		return nil, nil, errors.Join(err, device.Close())
	}
	return mount, device, nil
}

// newMount makes the file system whose requests device gets.
func newMount(device int, attr uint64) (*os.File, error) {
	fd, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a FUSE file system: %w", err)
	}
	config := os.NewFile(uintptr(fd), "fuse")
	defer func() { _ = config.Close() }()
	for _, o := range [][2]string{
		{"source", program}, {"fd", strconv.Itoa(device)}, {"rootmode", "40000"}, {"user_id", "0"}, {"group_id", "0"},
		{"max_read", strconv.Itoa(maxWrite)},
	} {
		if err := unix.FsconfigSetString(fd, o[0], o[1]); err != nil {
			return nil, fmt.Errorf("set %s of a FUSE file system: %w", o[0], err)
		}
	}
	// virtiofsd takes on the identity of whom it acts for.
	for _, o := range []string{"allow_other", "default_permissions"} {
		if err := unix.FsconfigSetFlag(fd, o); err != nil {
			return nil, fmt.Errorf("set %s of a FUSE file system: %w", o, err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return nil, fmt.Errorf("make a FUSE file system: %w", err)
	}
	mount, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, int(attr))
	if err != nil {
		return nil, fmt.Errorf("mount a FUSE file system: %w", err)
	}
	return os.NewFile(uintptr(mount), program), nil
}
