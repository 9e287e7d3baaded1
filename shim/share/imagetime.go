package share

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// ErrNoImageTime is returned for a root file system of which it cannot be told
// what came with the image.
var ErrNoImageTime = errors.New("it cannot be told which files of the root file system came with the image")

// ImageTime returns when the writable layer of the root file system at rootfs
// was made. A file that was changed before is the image's, as the image's
// layers are older; one that was changed later is not. The kernel sets a file's
// change time and a folder's birth time, and no program can choose either.
func ImageTime(rootfs string) (time.Time, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(rootfs))
	if err != nil {
		return time.Time{}, fmt.Errorf("read the mounts of this process: %w", plain(err))
	}
	for _, m := range mounts {
		if m.FSType == "overlay" {
			if upper := upperDir(m); upper != "" {
				return birth(upper)
			}
		}
	}
	return time.Time{}, fmt.Errorf("%w: %s is no overlay with a writable layer; use an engine with overlay2 or an overlayfs snapshotter", ErrNoImageTime, rootfs)
}

// upperDir is the writable layer of an overlay. Where the engine had too many
// layers for the mount's options, the path is relative to its own folder.
func upperDir(m *mountinfo.Info) string {
	for option := range strings.SplitSeq(m.VFSOptions, ",") {
		upper, ok := strings.CutPrefix(option, "upperdir=")
		switch {
		case !ok:
		case filepath.IsAbs(upper):
			return upper
		default:
			return filepath.Join(filepath.Dir(filepath.Dir(m.Mountpoint)), upper)
		}
	}
	return ""
}

func birth(dir string) (time.Time, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BTIME, &st); err != nil {
		return time.Time{}, fmt.Errorf("examine the writable layer %s: %w", dir, plain(err))
	}
	if st.Mask&unix.STATX_BTIME == 0 {
		return time.Time{}, fmt.Errorf("%w: the file system of %s does not keep when a folder was made; ext4, xfs and btrfs do", ErrNoImageTime, dir)
	}
	return time.Unix(st.Btime.Sec, int64(st.Btime.Nsec)), nil
}
