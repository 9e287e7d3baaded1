package boot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	// cpuFolder is where the kernel lists CPUs.
	cpuFolder = "/sys/devices/system/cpu"
	// cpuWait is how often it is looked whether one has arrived, which the kernel
	// tells by no file's change.
	cpuWait = 20 * time.Millisecond
	// maxCPUs is what the guest's kernel is built for.
	maxCPUs = 64
)

// UseCPUs brings the first n CPUs online, and waits for those that have still to
// arrive until ctx ends. The kernel does not do it by itself.
func (*Machine) UseCPUs(ctx context.Context, n int) error { return useCPUs(ctx, cpuFolder, n) }

func useCPUs(ctx context.Context, folder string, n int) error {
	if n > maxCPUs {
		return fmt.Errorf("%d CPUs are more than the kernel knows, which is %d", n, maxCPUs)
	}
	// The first is always online and has no switch.
	for i := 1; i < n; i++ {
		for {
			err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("cpu%d", i), "online"), []byte("1"), 0)
			if err == nil {
				break
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("bring CPU %d online: %w", i, err)
			}
			select {
			case <-time.After(cpuWait):
			case <-ctx.Done():
				return fmt.Errorf("wait for CPU %d: %w", i, ctx.Err())
			}
		}
	}
	return nil
}
