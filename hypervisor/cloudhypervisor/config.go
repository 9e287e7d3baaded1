package cloudhypervisor

import (
	"fmt"
	"os"
	"strings"

	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/hypervisor/cloudhypervisor/internal/api"
	"github.com/nanoclaw/nanoclaw/hypervisor/internal/vmm"
)

const (
	minMTU = 1280
	maxMTU = 65535

	queueSize   = 256
	fsQueueSize = 1024
	netQueues   = 2 // one pair, for the one descriptor of the tap
)

// check refuses what the hypervisor would misread, or refuse in worse words.
func check(c hypervisor.Config) error {
	if err := vmm.Check(c, cmdline(c)); err != nil {
		return err
	}
	for _, n := range c.NICs {
		if err := checkMTU(n); err != nil {
			return err
		}
	}
	return checkFiles(c)
}

// checkFiles looks for what the hypervisor would open: its own errors do not
// name a kernel, and a socket that is missing it waits for.
func checkFiles(c hypervisor.Config) error {
	if err := hypervisor.CheckKernel(c.Kernel); err != nil {
		return err
	}
	if err := hypervisor.CheckImage(c.Image); err != nil {
		return err
	}
	if c.FSSocket == "" {
		return nil
	}
	st, err := os.Stat(c.FSSocket)
	if err != nil {
		return fmt.Errorf("the socket of the share's daemon: %w", err)
	}
	if st.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("the socket of the share's daemon: %s is no socket", c.FSSocket)
	}
	return nil
}

func checkMTU(n hypervisor.NIC) error {
	if n.MTU != 0 && (n.MTU < minMTU || n.MTU > maxMTU) {
		return fmt.Errorf("NIC %s: an MTU of %d is not between %d and %d", n.ID, n.MTU, minMTU, maxMTU)
	}
	return nil
}

// cmdline returns the kernel's command line: what the devices below ask for,
// then the caller's words. A panic resets at once, so that it is seen by that
// event should the panic's own be missing.
func cmdline(c hypervisor.Config) string {
	words := []string{"console=hvc0", "loglevel=5", "panic=-1", "root=/dev/vda", "ro", "rootfstype=erofs"}
	return strings.Join(append(words, c.Cmdline...), " ")
}

// vmConfig describes the VM without its NICs, whose descriptors cannot be sent
// with it. The console goes to the file, which must exist.
func vmConfig(c hypervisor.Config, console string) api.VM {
	vm := api.VM{
		Payload: api.Payload{Kernel: c.Kernel, Cmdline: cmdline(c)},
		Cpus:    api.CPUs{BootVcpus: c.CPUs, MaxVcpus: c.CPUs},
		Memory:  api.Memory{Size: c.Memory},
		Disks: []api.Disk{{
			Path: c.Image, Readonly: true, ImageType: api.Raw,
			NumQueues: 1, QueueSize: queueSize,
			// Nothing is discarded on a disk that cannot be written, and asking
			// for it is a warning of the hypervisor's.
			Sparse: false,
		}},
		Vsock:   api.Vsock{Cid: int64(c.CID), Socket: hypervisor.VsockPath(c.Dir)},
		Rng:     api.RNG{Src: "/dev/urandom"},
		Serial:  api.Serial{Mode: api.Off},
		Console: api.Console{Mode: api.File, File: console},
		Pvpanic: true,
	}
	if c.MaxCPUs > c.CPUs {
		vm.Cpus.MaxVcpus = c.MaxCPUs
	}
	if room := c.Growth(); room > 0 {
		method := api.VirtioMem
		vm.Memory.HotplugMethod, vm.Memory.HotplugSize = &method, &room
	}
	if c.FSSocket != "" {
		vm.Memory.Shared = true
		vm.Fs = &[]api.FS{{Tag: c.FSTag, Socket: c.FSSocket, NumQueues: 1, QueueSize: fsQueueSize}}
	}
	return vm
}

// nicConfig describes a NIC over one descriptor.
func nicConfig(n hypervisor.NIC) api.NIC {
	nic := api.NIC{Id: n.ID, Mac: n.MAC.String(), NumQueues: netQueues, QueueSize: queueSize}
	if n.MTU != 0 {
		nic.Mtu = &n.MTU
	}
	return nic
}
