package vmcgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3"
)

// Usage is how much of the host's memory the cgroup at path holds, in bytes: the
// guest's memory as far as it was touched, the VMM, and the page cache that they
// caused.
func Usage(path string) (int64, error) {
	file := filepath.Join(mountpoint, path, "memory.current")
	if cgroups.Mode() != cgroups.Unified {
		file = filepath.Join(mountpoint, "memory", path, "memory.usage_in_bytes")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("read the VM's memory: %w", err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the VM's memory from %s: %w", file, err)
	}
	return n, nil
}
