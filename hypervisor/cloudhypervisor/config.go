package cloudhypervisor

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/hypervisor/cloudhypervisor/internal/api"
)

const (
	maxCmdline = 2047 // the kernel's own bound
	maxDirPath = 60
	minCID     = 3
	pageSize   = 2 << 20
	minMTU     = 1280
	maxMTU     = 65535

	queueSize   = 256
	fsQueueSize = 1024
	netQueues   = 2 // one pair, for the one descriptor of the tap
)

var (
	validNIC = regexp.MustCompile(`^[a-z0-9]{1,16}$`)
	validTag = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,36}$`)
)

// check refuses what the hypervisor would misread, or refuse in worse words.
func check(c hypervisor.Config) error {
	paths := []struct{ what, path string }{
		{"folder", c.Dir}, {"kernel", c.Kernel}, {"image", c.Image},
	}
	if c.FSSocket != "" {
		paths = append(paths, struct{ what, path string }{"share's socket", c.FSSocket})
	}
	for _, p := range paths {
		if !filepath.IsAbs(p.path) {
			return fmt.Errorf("the path of the %s is not absolute: %q", p.what, p.path)
		}
	}
	switch {
	case len(c.Dir) > maxDirPath:
		return fmt.Errorf("the VM's folder has a path of %d bytes, more than %d: %s", len(c.Dir), maxDirPath, c.Dir)
	case c.CPUs < 1:
		return fmt.Errorf("%d CPUs", c.CPUs)
	case c.Memory < pageSize || c.Memory%pageSize != 0:
		return fmt.Errorf("%d bytes of memory are not a multiple of 2 MiB", c.Memory)
	case c.CID < minCID:
		return fmt.Errorf("vsock context id %d is reserved", c.CID)
	case c.FSSocket != "" && !validTag.MatchString(c.FSTag):
		return fmt.Errorf("invalid mount tag %q", c.FSTag)
	}
	for _, word := range c.Cmdline {
		// A blank would make two parameters of one.
		if word == "" || strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return fmt.Errorf("invalid kernel parameter %q", word)
		}
	}
	if n := len(cmdline(c)); n > maxCmdline {
		return fmt.Errorf("a kernel command line of %d bytes, more than %d", n, maxCmdline)
	}
	seen := map[string]bool{}
	for _, n := range c.NICs {
		if err := checkNIC(n); err != nil {
			return err
		}
		if seen[n.ID] {
			return fmt.Errorf("two NICs are called %q", n.ID)
		}
		seen[n.ID] = true
	}
	return nil
}

func checkNIC(n hypervisor.NIC) error {
	switch {
	case !validNIC.MatchString(n.ID):
		return fmt.Errorf("invalid NIC id %q", n.ID)
	case len(n.MAC) != 6:
		return fmt.Errorf("NIC %s: invalid MAC address %q", n.ID, n.MAC)
	case n.MTU != 0 && (n.MTU < minMTU || n.MTU > maxMTU):
		return fmt.Errorf("NIC %s: an MTU of %d is not between %d and %d", n.ID, n.MTU, minMTU, maxMTU)
	case n.Tap == nil:
		return errors.New("NIC " + n.ID + " has no tap")
	}
	return nil
}

// cmdline returns the kernel's command line: what the devices below ask for,
// then the caller's words. A panic resets at once, so that it is seen by that
// event should the panic's own be missing.
func cmdline(c hypervisor.Config) string {
	words := []string{"console=hvc0", "quiet", "panic=-1", "root=/dev/vda", "ro", "rootfstype=erofs"}
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
		}},
		Vsock:   api.Vsock{Cid: int64(c.CID), Socket: hypervisor.VsockPath(c.Dir)},
		Rng:     api.RNG{Src: "/dev/urandom"},
		Serial:  api.Serial{Mode: api.Off},
		Console: api.Console{Mode: api.File, File: console},
		Pvpanic: true,
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
