// Package hypervisor is the virtual machine as the shim sees it.
//
// It names no hypervisor: the drivers are hypervisor/cloudhypervisor and
// hypervisor/qemu, and hypervisor/choose picks one. It knows nothing of
// containers, images or policy either; it boots a kernel with the devices it
// is given and says how that ended.
package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Hypervisor starts virtual machines of one kind. Implementations are safe for
// concurrent use.
type Hypervisor interface {
	// Name is what the configuration and messages call it, such as
	// "cloud-hypervisor", "qemu" or "qemu (emulation)".
	Name() string
	// Isolates reports whether a hardware boundary stands around the guest.
	// Emulation does not count as one.
	Isolates() bool
	// Start starts the VM described by c and returns once its kernel has been
	// told to boot. It does not wait for the guest. On an error nothing is left
	// running, and the error says what failed and holds the VMM's own last words.
	Start(ctx context.Context, c Config) (VM, error)
}

// Starter starts a process of the VM where the owner wants it: in the
// container's network namespace and cgroup, bound to the owner's life. It is
// like exec.Cmd.Start; the caller waits for the process.
type Starter func(*exec.Cmd) error

// Config describes a VM. Every path is absolute.
type Config struct {
	// ID names the VM in messages and process titles.
	ID string
	// Dir is the VM's private folder for sockets. It exists, is owned by the
	// caller, and its path is at most 60 bytes, because the socket names in it
	// must fit a sockaddr_un of 108.
	Dir string

	// Kernel is an uncompressed PVH kernel; Image is the read-only guest disk.
	Kernel string
	Image  string
	// Cmdline is appended to the kernel command line.
	Cmdline []string

	// CPUs is the number of virtual CPUs, at least 1.
	CPUs int
	// Memory is the size of the guest's memory in bytes, a multiple of 2 MiB.
	Memory int64
	// MaxCPUs and MaxMemory are how far VM.Grow can go; 0: not at all. Room for
	// memory that is not there costs the host and the guest next to nothing. What
	// does not make a whole GrowthStep is left out.
	MaxCPUs   int
	MaxMemory int64

	// FSSocket is the vhost-user socket of the share's daemon, listening
	// already; FSTag is the share's mount tag. Empty: no share.
	FSSocket string
	FSTag    string

	// CID is the guest's vsock context id, at least 3. It need not be unique on
	// the host: the socket below Dir is what tells VMs apart.
	CID uint32

	// NICs are there when the guest boots. Start uses their taps during the
	// call only; the caller closes its descriptors afterwards.
	NICs []NIC

	// Console is the file that the guest's console is written to. It is created
	// or appended to. How large it may become is the driver's promise: at most
	// ConsoleLimit bytes.
	Console string

	// StartProcess starts the VMM and its helpers. Nil: exec.Cmd.Start.
	StartProcess Starter
}

// VsockPath is the Unix socket of a VM's vsock device (package hybridvsock)
// below its Dir. Whoever wants the guest's calls listens beside it before Start.
func VsockPath(dir string) string { return filepath.Join(dir, "v.sock") }

// ConsoleLimit bounds what a guest can write to its console's file, in bytes.
// A guest that prints without end must not fill the host's disk.
const ConsoleLimit = 1 << 20

// GrowthStep is the granularity in which a VM's memory grows, in bytes. It is
// Cloud Hypervisor's (VIRTIO_MEM_ALIGN_SIZE), and a section's on x86.
const GrowthStep = 128 << 20

// Growth is by how much a VM with these sizes can grow, in bytes.
func (c *Config) Growth() int64 {
	if c.MaxMemory <= c.Memory {
		return 0
	}
	return (c.MaxMemory - c.Memory) / GrowthStep * GrowthStep
}

// Size is what a VM has in all.
type Size struct {
	CPUs int
	// Memory is in bytes.
	Memory int64
}

// Check returns an error unless a VM that was started with c can be made that
// large, from what it has.
func (c *Config) Check(has, wanted Size) error {
	switch {
	case wanted.Memory < has.Memory || wanted.CPUs < has.CPUs:
		return fmt.Errorf("a VM of %d CPUs and %d MiB does not shrink", has.CPUs, has.Memory>>20)
	case wanted.CPUs > max(c.CPUs, c.MaxCPUs):
		return fmt.Errorf("%d CPUs are more than the VM has room for, which is %d", wanted.CPUs, max(c.CPUs, c.MaxCPUs))
	case wanted.Memory > c.Memory+c.Growth():
		return fmt.Errorf("%d MiB are more than the VM has room for, which is %d MiB", wanted.Memory>>20, (c.Memory+c.Growth())>>20)
	case (wanted.Memory-c.Memory)%GrowthStep != 0:
		return fmt.Errorf("memory grows by steps of %d MiB", GrowthStep>>20)
	}
	return nil
}

// NIC is a virtio-net device over a tap of the caller's.
type NIC struct {
	// ID names the device towards AddNIC and RemoveNIC: [a-z0-9]{1,16}.
	ID  string
	MAC net.HardwareAddr
	// MTU in bytes; 0 leaves the tap's own.
	MTU int
	// Tap is an open tap device with one queue, IFF_NO_PI and IFF_VNET_HDR.
	Tap *os.File
}

// VM is a running virtual machine. Methods are safe for concurrent use, and
// after the end of the VM they return errors that wrap ErrStopped.
type VM interface {
	// PID is the VMM's process on the host.
	PID() int
	// Dial connects to a vsock port of the guest. It waits for a guest that is
	// still booting until ctx ends.
	Dial(ctx context.Context, port uint32) (net.Conn, error)
	// AddNIC plugs a NIC into the running guest; RemoveNIC takes it out.
	AddNIC(ctx context.Context, n NIC) error
	RemoveNIC(ctx context.Context, id string) error
	// Grow makes the VM larger, up to Config.MaxCPUs and MaxMemory, in steps of
	// GrowthStep from what it was started with. It returns once the VMM has it; the
	// guest finds it a moment later. The guest has CPUs to bring online.
	Grow(ctx context.Context, to Size) error
	// Pause stops the virtual CPUs; Resume lets them go on. Pausing a paused
	// VM and resuming a running one succeed.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	// Stop ends the VM without the guest's help but in an orderly way, and by
	// force once ctx has ended. It returns when every process of the VM is gone.
	Stop(ctx context.Context) error
	// Kill ends the VM by force. It does not wait.
	Kill()
	// Done is closed when every process of the VM is gone and reaped.
	Done() <-chan struct{}
	// Exit says how the VM ended. It is valid after Done.
	Exit() Exit
}

// ErrStopped is wrapped by errors of calls that came after the VM's end.
var ErrStopped = errors.New("the virtual machine is not running")

// Cause is why a VM ended.
type Cause string

const (
	// CauseGuest means that the guest powered itself off.
	CauseGuest Cause = "guest powered off"
	// CausePanic means that the guest's kernel panicked.
	CausePanic Cause = "guest kernel panicked"
	// CauseReset means that the guest asked for a reset, which is treated as its end.
	CauseReset Cause = "guest asked for a reset"
	// CauseStopped means that Stop or Kill was called.
	CauseStopped Cause = "stopped by the shim"
	// CauseFailed means that the VMM or one of its helpers died or failed.
	CauseFailed Cause = "virtual machine monitor failed"
)

// Exit says how a VM ended.
type Exit struct {
	Cause Cause
	// Detail is the VMM's own last words where the cause is CauseFailed, at
	// most 4 KiB.
	Detail string
	At     time.Time
}
