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

	"github.com/nanoclaw/nanoclaw/shim/guest"
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

func (d rundir) console() string { return filepath.Join(string(d), "console.log") }
func (d rundir) record() string  { return filepath.Join(string(d), "vm.json") }

// record is what "delete" must know when the shim is gone.
type record struct {
	ID     string `json:"id"`
	Cgroup string `json:"cgroup"`
}

// make makes the folder. What a predecessor of the same name left is removed
// first, as "delete" would.
func (d rundir) make(r record) error {
	if err := d.destroy(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(string(d)), 0o711); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	if err := os.Mkdir(string(d), 0o700); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.record(), data, 0o600); err != nil {
		return errors.Join(fmt.Errorf("write the VM's record: %w", err), d.remove())
	}
	return nil
}

// destroy kills what the record names and removes the folder.
func (d rundir) destroy() error {
	data, err := os.ReadFile(d.record())
	switch {
	case err == nil:
		var r record
		if err := json.Unmarshal(data, &r); err != nil {
			return fmt.Errorf("read the VM's record %s: %w", d.record(), err)
		}
		if r.Cgroup != "" {
			if err := vmcgroup.Destroy(r.Cgroup, killPatience); err != nil {
				return err
			}
		}
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("read the VM's record: %w", err)
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

// consoleTail returns the last lines of the guest's console, at most 2 KiB of
// printable text.
func (d rundir) consoleTail() string {
	const most = 2 << 10
	f, err := os.Open(d.console())
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	buf := make([]byte, min(most, info.Size()))
	n, err := f.ReadAt(buf, info.Size()-int64(len(buf)))
	if err != nil && n == 0 {
		return ""
	}
	return guest.Printable(string(buf[:n]))
}

// killPatience bounds how long a killed VM's processes may take to go. The
// engine gives "delete" five seconds in all.
const killPatience = 3 * time.Second
