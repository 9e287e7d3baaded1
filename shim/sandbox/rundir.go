package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/shim/vmcgroup"
)

// rundir is a VM's private folder: sockets, the console, the share's tree, and
// the record that Destroy works from.
//
// Its name is a hash, because container ids are long and socket paths are
// bounded by 108 bytes.
type rundir string

func newRundir(base, namespace, id string) rundir {
	sum := sha256.Sum256([]byte(namespace + "/" + id))
	return rundir(filepath.Join(base, hex.EncodeToString(sum[:8])))
}

// What a bundle says, for "delete", of its container's sandbox.
const (
	// baseFile names the folder below which the run directory is: the
	// configuration may be another by the time of "delete".
	baseFile = "nanoclaw-run-dir"
	// cgroupFile names the cgroup, for where somebody has removed the run
	// directory and with it the record.
	cgroupFile = "nanoclaw-cgroup"
	// ownerFile is in the bundle of a container that joined the network of
	// another one: the id of the sandbox that it is in.
	ownerFile = "nanoclaw-sandbox"
)

func remember(bundle, file, what string) error {
	if err := os.WriteFile(filepath.Join(bundle, file), []byte(what), 0o600); err != nil {
		return fmt.Errorf("note in the bundle what to clean up: %w", err)
	}
	return nil
}

// remembered is empty where there is no such note.
func remembered(bundle, file string) (string, error) {
	what, err := os.ReadFile(filepath.Join(bundle, file))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read from the bundle what to clean up: %w", err)
	}
	return string(what), nil
}

func (d rundir) console() string { return filepath.Join(string(d), "console.log") }
func (d rundir) record() string  { return filepath.Join(string(d), "vm.json") }

// lock is held by the shim as long as the VM is its.
func (d rundir) lock() string { return filepath.Join(string(d), "lock") }

// hold takes the lock, which the kernel lets go when this process ends.
func (d rundir) hold() (*os.File, error) {
	f, err := os.OpenFile(d.lock(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the run directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the run directory %s: %w", d, err), f.Close())
	}
	return f, nil
}

// serialise waits until no other process destroys the sandbox, and has others
// wait until unlock. A folder that is not there needs no lock.
func (d rundir) serialise() (unlock func(), err error) {
	f, err := os.Open(string(d))
	if errors.Is(err, os.ErrNotExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("lock the run directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the run directory %s: %w", d, err), f.Close())
	}
	return func() { _ = f.Close() }, nil // the kernel unlocks with the last descriptor
}

// held reports whether a shim that lives holds the lock.
func (d rundir) held() bool {
	f, err := os.Open(d.lock())
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// make makes the folder. What a predecessor of the same name left is removed
// first, as "delete" would, unless its VM is in use.
func (d rundir) make(info Info) error {
	if d.held() {
		return errors.New("the virtual machine of this container's last run is still in use by a container that joined its network (--network container:…); remove that one first")
	}
	if err := d.destroy(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(string(d)), 0o711); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	if err := os.Mkdir(string(d), 0o700); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	if err := d.write(info); err != nil {
		return errors.Join(err, d.remove())
	}
	return nil
}

// write replaces the record.
func (d rundir) write(info Info) error {
	data, err := json.Marshal(info)
	if err != nil {
		return err
	}
	// Whole or not at all: others may read it at any time, and Destroy could do
	// nothing with a part of it.
	part := d.record() + ".part"
	if err = os.WriteFile(part, data, 0o600); err == nil {
		err = os.Rename(part, d.record())
	}
	if err != nil {
		return fmt.Errorf("write the VM's record: %w", err)
	}
	return nil
}

// destroy kills what the record names and removes the folder.
func (d rundir) destroy() error {
	info, err := d.info()
	if err != nil {
		return err
	}
	cgroup := ""
	if info != nil {
		cgroup = info.Cgroup
	}
	return d.destroyWith(cgroup)
}

// destroyWith is destroy for who knows the cgroup, so that it is found even when
// somebody has removed the record.
func (d rundir) destroyWith(cgroup string) error {
	if cgroup != "" {
		if err := vmcgroup.Destroy(cgroup, killPatience); err != nil {
			return err
		}
	}
	return d.remove()
}

// remove removes the folder. It never removes through a mount: what is mounted
// below it is the user's own files.
func (d rundir) remove() error {
	for range 2 {
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(string(d)))
		if err != nil {
			return fmt.Errorf("look for mounts below %s: %w", d, err)
		}
		if len(mounts) == 0 {
			if err := os.RemoveAll(string(d)); err != nil {
				return fmt.Errorf("remove run directory: %w", err)
			}
			return nil
		}
		// The last mounted first, so that none is covered by another.
		for i := len(mounts) - 1; i >= 0; i-- {
			if err := unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("unmount %s: %w", mounts[i].Mountpoint, err)
			}
		}
	}
	return fmt.Errorf("%s still has mounts below it and is left as it is", d)
}

// killPatience bounds how long a killed VM's processes may take to go. The
// engine gives "delete" five seconds in all.
const killPatience = 3 * time.Second
