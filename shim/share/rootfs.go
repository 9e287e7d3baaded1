package share

import (
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// MountRootfs mounts a container's root file system, given as a snapshot's
// mounts, at target. containerd does that where no Docker has mounted it. It
// returns how to unmount it again; no mounts are no error.
func MountRootfs(mounts []*types.Mount, target string) (unmount func() error, err error) {
	if len(mounts) == 0 {
		return func() error { return nil }, nil
	}
	steps := mount.FromProto(mounts)
	if slices.ContainsFunc(steps, func(m mount.Mount) bool { return isFormatted(m.Type) }) {
		undo, err := mountSteps(steps, target, target+".parts")
		if err != nil {
			return nil, fmt.Errorf("mount the root file system at %s: %w", target, err)
		}
		return undo.Run, nil
	}
	unmount = func() error {
		if err := mount.UnmountAll(target, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount the root file system %s: %w", target, plain(err))
		}
		return nil
	}
	if err := mount.All(steps, target); err != nil {
		// Some of several may have been mounted.
		return nil, errors.Join(fmt.Errorf("mount the root file system at %s: %w", target, plain(err)), unmount())
	}
	return unmount, nil
}
