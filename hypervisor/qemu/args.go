package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/nanoclaw/nanoclaw/hypervisor"
)

// descriptors are the numbers under which QEMU inherits what it is given.
type descriptors struct {
	qmp, console, vsock int
	fs                  int // 0: no share
	taps                []int
}

// sparePorts is how many NICs can be plugged into a running guest. A PCIe slot
// must be there from the start, and each costs a little of every boot.
const sparePorts = 4

// maxCmdline is the kernel's own bound, without the terminating zero.
const maxCmdline = 2047

const (
	maxDirPath = 60
	minCID     = 3
	pageSize   = 2 << 20
)

var (
	validID  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)
	validNIC = regexp.MustCompile(`^[a-z0-9]{1,16}$`)
	// validTag is what fits the device and needs no quoting.
	validTag = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,36}$`)
)

// check refuses what QEMU would misread or refuse later in worse words.
func check(c hypervisor.Config) error {
	for what, path := range map[string]string{"folder": c.Dir, "kernel": c.Kernel, "image": c.Image} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("the path of the %s is not absolute: %q", what, path)
		}
	}
	switch {
	case !validID.MatchString(c.ID):
		return fmt.Errorf("invalid VM id %q", c.ID)
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
	if n := len(cmdline(TCG, c)); n > maxCmdline {
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
	case n.Tap == nil:
		return errors.New("NIC " + n.ID + " has no tap")
	}
	return nil
}

// arguments returns QEMU's command line. Values that the caller chose are either
// checked to be plain words or stand in JSON, where a comma is not special.
func arguments(accel Accel, c hypervisor.Config, fd descriptors) []string {
	cpu, accelerator := "host", "kvm"
	if accel == TCG {
		cpu, accelerator = "max", "tcg,thread=multi"
	}
	args := []string{
		"-name", c.ID + ",debug-threads=on",
		"-nodefaults", "-no-user-config", "-display", "none",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-machine", "q35,memory-backend=ram,graphics=off,vmport=off,smbus=off,sata=off,usb=off,i8042=off,hpet=off,dump-guest-core=off",
		"-accel", accelerator,
		"-cpu", cpu,
		"-smp", strconv.Itoa(c.CPUs),
		"-m", strconv.FormatInt(c.Memory>>20, 10) + "M",
		// Shared, because the devices of other processes reach into it.
		"-object", object(map[string]any{"qom-type": "memory-backend-memfd", "id": "ram", "size": c.Memory, "share": true}),
		// A guest that wants to reboot has ended, and so has one that panicked.
		"-action", "reboot=shutdown,panic=shutdown",
		"-kernel", c.Kernel,
		"-append", cmdline(accel, c),

		"-chardev", "socket,id=qmp,fd=" + strconv.Itoa(fd.qmp),
		"-mon", "chardev=qmp,mode=control",
		"-chardev", "socket,id=console,fd=" + strconv.Itoa(fd.console),
		"-device", device("virtio-serial-pci", "serial", map[string]any{"max_ports": 1}),
		"-device", object(map[string]any{"driver": "virtconsole", "chardev": "console"}),
		"-blockdev", object(map[string]any{
			"node-name": "image", "driver": "raw", "read-only": true,
			"file": map[string]any{"driver": "file", "filename": c.Image, "read-only": true},
		}),
		"-device", device("virtio-blk-pci", "disk", map[string]any{"drive": "image"}),
		"-chardev", "socket,id=vsock,fd=" + strconv.Itoa(fd.vsock),
		"-device", device("vhost-user-vsock-pci", "vsockdev", map[string]any{"chardev": "vsock"}),
		"-device", device("virtio-rng-pci", "rng", nil),
		"-device", object(map[string]any{"driver": "pvpanic-pci"}),
	}
	if fd.fs != 0 {
		args = append(args,
			"-chardev", "socket,id=fs,fd="+strconv.Itoa(fd.fs),
			// This device has no transitional form to switch off.
			"-device", object(map[string]any{
				"driver": "vhost-user-fs-pci", "id": "fsdev",
				"chardev": "fs", "tag": c.FSTag, "queue-size": 1024,
			}))
	}
	for port := range len(c.NICs) + sparePorts {
		args = append(args, "-device", object(rootPort(port)))
	}
	for i, n := range c.NICs {
		args = append(args,
			"-netdev", object(netdev(n.ID, strconv.Itoa(fd.taps[i]))),
			"-device", object(nicDevice(n, i)))
	}
	return args
}

// cmdline returns the kernel's command line: what the machine above asks for,
// then the caller's words.
func cmdline(accel Accel, c hypervisor.Config) string {
	words := []string{
		"console=hvc0", "quiet", "panic=-1",
		"root=/dev/vda", "ro", "rootfstype=erofs",
	}
	if accel == TCG {
		words = append(words, tcgWords(c.CPUs)...)
	}
	return strings.Join(append(words, c.Cmdline...), " ")
}

// tcgWords are kernel parameters for an emulated guest.
func tcgWords(cpus int) []string {
	// TCG does not see that virtiofsd writes into the guest's memory, and would
	// run code that it translated from a page's earlier content: programs from
	// the share were seen to crash. Clearing pages in the guest is a write that
	// it sees.
	words := []string{"init_on_alloc=1"}
	if cpus == 1 {
		words = append(words, "noreplace-smp")
	}
	return words
}

// device describes a virtio device on the root bus, without the transitional
// registers for drivers before virtio 1.0.
func device(driver, id string, properties map[string]any) string {
	d := map[string]any{"driver": driver, "id": id, "disable-legacy": "on"}
	for k, v := range properties {
		d[k] = v
	}
	return object(d)
}

func portID(port int) string { return "port" + strconv.Itoa(port) }

// firstPortSlot leaves the slots below to the devices that QEMU places itself.
const firstPortSlot = 0x10

// rootPort describes one PCIe slot. Eight share a device of the root bus.
func rootPort(port int) map[string]any {
	return map[string]any{
		"driver": "pcie-root-port", "id": portID(port),
		"chassis": port + 1, "slot": port, "port": port,
		"addr":          fmt.Sprintf("%#x.%d", firstPortSlot+port/8, port%8),
		"multifunction": true,
	}
}

// netdev and nicDevice describe the two halves of a NIC. The tap is a number,
// or the name under which the monitor was given it.
func netdev(id, tap string) map[string]any {
	return map[string]any{"type": "tap", "id": "net-" + id, "fd": tap}
}

func nicDevice(n hypervisor.NIC, port int) map[string]any {
	d := map[string]any{
		"driver": "virtio-net-pci", "id": "nic-" + n.ID, "netdev": "net-" + n.ID,
		"bus": portID(port), "mac": n.MAC.String(),
		// Nobody boots from the network.
		"romfile": "",
	}
	if n.MTU > 0 {
		d["host_mtu"] = n.MTU
	}
	return d
}

// object encodes one argument. Only plain values come here, so it cannot fail.
func object(o map[string]any) string {
	b, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	return string(b)
}
