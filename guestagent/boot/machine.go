package boot

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/nanoclaw/nanoclaw/guestagent/cgroup"
	"github.com/nanoclaw/nanoclaw/guestagent/uptime"
	"golang.org/x/sys/unix"
)

const (
	minEntropy = 32
	maxEntropy = 4096
)

// Machine is the VM as a whole.
type Machine struct {
	off    sync.Once
	called atomic.Int64
}

// Called notes that the agent has called the host, which ends the boot.
func (m *Machine) Called() { m.called.Store(int64(uptime.Now())) }

// Booted says what the guest's clock showed at the agent's first instruction,
// and how long after that it had called the host.
func (m *Machine) Booted() (began, called time.Duration) {
	began = uptime.Began()
	return began, max(0, time.Duration(m.called.Load())-began)
}

// SetClock sets the VM's clock, which knows the time from nobody else.
func (*Machine) SetClock(unixNano int64) error {
	if err := checkTime(unixNano); err != nil {
		return err
	}
	ts := unix.NsecToTimespec(unixNano)
	return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
}

// checkTime refuses a time at which no VM of ours runs. It is apart from
// SetClock so that a test of it sets no clock.
func checkTime(unixNano int64) error {
	if y := time.Unix(0, unixNano).UTC().Year(); y < 2020 || y > 2100 {
		return fmt.Errorf("the host's time is in the year %d: %w", y, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Seed adds entropy to the kernel's random source and has it used at once.
func (*Machine) Seed(entropy []byte) error {
	if err := checkEntropy(entropy); err != nil {
		return err
	}
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	// struct rand_pool_info: bits of entropy, bytes of the buffer, the buffer.
	pool := binary.NativeEndian.AppendUint32(make([]byte, 0, 8+len(entropy)), uint32(len(entropy)*8))
	pool = binary.NativeEndian.AppendUint32(pool, uint32(len(entropy)))
	pool = append(pool, entropy...)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&pool[0]))); errno != 0 {
		return fmt.Errorf("add entropy: %w", errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDRESEEDCRNG, 0); errno != 0 {
		return fmt.Errorf("reseed: %w", errno)
	}
	return nil
}

func checkEntropy(entropy []byte) error {
	if len(entropy) < minEntropy || len(entropy) > maxEntropy {
		return fmt.Errorf("%d bytes of entropy are not %d to %d: %w", len(entropy), minEntropy, maxEntropy, errdefs.ErrInvalidArgument)
	}
	return nil
}

// killTime is how long the processes of containers have to be gone before the
// power goes off under them.
const killTime = 2 * time.Second

// flushTime is how long the last lines of the log have to reach the console.
const flushTime = 200 * time.Millisecond

// PowerOff kills every container, writes back what is cached and turns the VM
// off. It does not return.
func (m *Machine) PowerOff(reason string) {
	m.off.Do(func() {
		log.L.Infof("power off: %s", reason)
		// The share's server may be gone, and who waits for it waits for ever.
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := cgroup.KillContainers(); err != nil {
				log.L.WithError(err).Warn("kill the containers")
			}
			// Nothing is unmounted: the kernel would not wait for what the server has
			// still to answer, see package container's hold.
			unix.Sync()
		}()
		select {
		case <-done:
		case <-time.After(killTime):
			log.L.Warn("power off without waiting for the share")
		}
		console.flush(flushTime)
		off()
	})
	select {}
}

func off() {
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		log.L.WithError(err).Error("power off")
	}
	// A kernel that cannot turn the VM off can restart it, which the host takes
	// for its end as well.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}
