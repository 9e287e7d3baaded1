package qemu

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/hypervisor/internal/vmm"
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

// validID is what needs no quoting in QEMU's options.
var validID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// check refuses what QEMU would misread or refuse later in worse words.
func check(accel Accel, c hypervisor.Config) error {
	if !validID.MatchString(c.ID) {
		return fmt.Errorf("invalid VM id %q", c.ID)
	}
	return vmm.Check(c, cmdline(accel, c))
}

// arguments returns QEMU's command line. Values that the caller chose are either
// checked to be plain words or stand in JSON, where a comma is not special.
func arguments(accel Accel, c hypervisor.Config, fd descriptors) []string {
	cpu, accelerator := "host", "kvm"
	if accel == TCG {
		// Without these two features programs copy memory by words and not by string instructions, which are emulated one
		// byte at a time: 60 MiB through dd took a third less time.
		cpu, accelerator = "max,erms=off,fsrm=off", "tcg,thread=multi"
	}
	args := []string{
		"-name", c.ID + ",debug-threads=on",
		"-nodefaults", "-no-user-config", "-display", "none",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-machine", "q35,memory-backend=ram,graphics=off,vmport=off,smbus=off,sata=off,usb=off,i8042=off,hpet=off,dump-guest-core=off",
		"-accel", accelerator,
		"-cpu", cpu,
		"-smp", processors(c),
		"-m", memory(c),
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
	if c.Growth() > 0 {
		args = append(args,
			"-object", object(map[string]any{"qom-type": "memory-backend-memfd", "id": "room", "size": c.Growth(), "share": true}),
			"-device", device("virtio-mem-pci", growthDevice, map[string]any{"memdev": "room", "requested-size": 0}))
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

// processors describes the virtual CPUs, each a socket's only one, so that any
// number of them makes a topology.
func processors(c hypervisor.Config) string {
	if c.MaxCPUs <= c.CPUs {
		return strconv.Itoa(c.CPUs)
	}
	return fmt.Sprintf("%d,maxcpus=%d,sockets=%d,cores=1,threads=1", c.CPUs, c.MaxCPUs, c.MaxCPUs)
}

func memory(c hypervisor.Config) string {
	if c.Growth() == 0 {
		return fmt.Sprintf("%dM", c.Memory>>20)
	}
	return fmt.Sprintf("%dM,maxmem=%dM", c.Memory>>20, (c.Memory+c.Growth())>>20)
}

// cmdline returns the kernel's command line: what the machine above asks for,
// then the caller's words.
func cmdline(accel Accel, c hypervisor.Config) string {
	words := []string{
		"console=hvc0", "loglevel=5", "panic=-1",
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
	//
	// The check whether the timer ticks counts ticks against a processor that has
	// all of its time. On a busy host it fails, and the kernel panics before it
	// has a console. KVM's guests skip it by themselves.
	words := []string{"init_on_alloc=1", "no_timer_check"}
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
