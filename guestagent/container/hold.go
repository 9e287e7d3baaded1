package container

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// hold keeps a container's mounts when its last process is gone.
//
// Each folder of the share that is a mount of its own on the host, such as a
// root file system, becomes a file system of its own in the guest, mounted in the
// container's mount namespace only. The kernel (6.12) takes such a file system
// down without waiting for what virtiofsd has still to answer, such as a read
// ahead of a program's pages: "VFS: Busy inodes after unmount of virtiofs", and
// then a fault in fuse_readpages_end and a panic. One run in fifty of a program that
// ends right after it began ended so. So the namespace stays until the container
// is deleted and nothing is under way.
type hold struct {
	namespace *os.File
	// waiting is the file that says how many requests virtiofsd has not answered.
	waiting string
}

// connections is where the control file system of FUSE is mounted. It has a
// folder for each connection, named by its device, whose major number is 0.
const connections = "/sys/fs/fuse/connections"

// holdMounts keeps the mounts of the container of that process, in a VM whose
// share is mounted at that path.
func holdMounts(pid int, share string) (*hold, error) {
	var st unix.Stat_t
	if err := unix.Stat(share, &st); err != nil {
		return nil, fmt.Errorf("examine %s: %w", share, err)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return nil, fmt.Errorf("keep the container's mounts: %w", err)
	}
	return &hold{f, fmt.Sprintf("%s/%d/waiting", connections, unix.Minor(st.Dev))}, nil
}

// release lets the mounts go once nothing is under way, which it does not wait
// for: other containers of the VM may keep the share busy for long. The
// container's processes have ended, so a moment without requests is enough. Where
// that moment cannot be seen, the mounts stay as long as the VM.
func (h *hold) release() {
	go func() {
		const pause = 20 * time.Millisecond
		for {
			data, err := os.ReadFile(h.waiting)
			if err != nil {
				log.L.WithError(err).Warn("how busy the share is cannot be seen; a container's mounts are kept")
				return
			}
			if strings.TrimSpace(string(data)) == "0" {
				_ = h.namespace.Close() // it was never written to
				return
			}
			time.Sleep(pause)
		}
	}()
}
