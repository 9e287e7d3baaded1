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

// baseFile is where a bundle says below which folder its container's run
// directory is: the configuration may be another by the time of "delete".
const baseFile = "nanoclaw-run-dir"

func rememberBase(bundle, base string) error {
	if err := os.WriteFile(filepath.Join(bundle, baseFile), []byte(base), 0o600); err != nil {
		return fmt.Errorf("note the run directory in the bundle: %w", err)
	}
	return nil
}

// rememberedBase is empty where no sandbox was started.
func rememberedBase(bundle string) (string, error) {
	base, err := os.ReadFile(filepath.Join(bundle, baseFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the run directory from the bundle: %w", err)
	}
	return string(base), nil
}

func (d rundir) console() string { return filepath.Join(string(d), "console.log") }
func (d rundir) record() string  { return filepath.Join(string(d), "vm.json") }

// make makes the folder. What a predecessor of the same name left is removed
// first, as "delete" would.
func (d rundir) make(info Info) error {
	if err := d.destroy(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(string(d)), 0o711); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	if err := os.Mkdir(string(d), 0o700); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	data, err := json.Marshal(info)
	if err != nil {
		return err
	}
	// Whole or not at all: Destroy could do nothing with a part of it.
	part := d.record() + ".part"
	if err := os.WriteFile(part, data, 0o600); err != nil {
		return errors.Join(fmt.Errorf("write the VM's record: %w", err), d.remove())
	}
	if err := os.Rename(part, d.record()); err != nil {
		return errors.Join(fmt.Errorf("write the VM's record: %w", err), d.remove())
	}
	return nil
}

// destroy kills what the record names and removes the folder.
func (d rundir) destroy() error {
	info, err := d.info()
	if err != nil {
		return err
	}
	if info != nil && info.Cgroup != "" {
		if err := vmcgroup.Destroy(info.Cgroup, killPatience); err != nil {
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
