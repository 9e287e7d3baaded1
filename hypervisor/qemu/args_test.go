package qemu

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/nanoclaw/nanoclaw/hypervisor"
)

// goodConfig is what check accepts.
func goodConfig() hypervisor.Config {
	return hypervisor.Config{
		ID: "0123456789abcdef", Dir: "/run/nanoclaw/0123456789abcdef",
		Kernel: "/k/vmlinux", Image: "/k/guest,x.img", Cmdline: []string{"init=/x", "a=b"},
		CPUs: 1, Memory: 64 << 20, CID: 3,
	}
}

func goodNIC() hypervisor.NIC {
	return hypervisor.NIC{ID: "eth0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Tap: os.Stdin}
}

func TestCheck(t *testing.T) {
	if err := check(TCG, goodConfig()); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*hypervisor.Config){
		"id":    func(c *hypervisor.Config) { c.ID = "a,b" },
		"2 MiB": func(c *hypervisor.Config) { c.Memory++ },
		// What the driver itself puts on the line counts.
		"2047": func(c *hypervisor.Config) { c.Cmdline = []string{strings.Repeat("x", 2000)} },
	} {
		c := goodConfig()
		spoil(&c)
		if err := check(TCG, c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error about %q, got %v", want, err)
		}
	}
}

// after returns the values of an option.
func after(args []string, option string) []string {
	var out []string
	for i, a := range args[:len(args)-1] {
		if a == option {
			out = append(out, args[i+1])
		}
	}
	return out
}

func TestArgumentsFollowTheConfig(t *testing.T) {
	c := goodConfig()
	c.FSSocket, c.FSTag = "/run/fs.sock", "share"
	nic := goodNIC()
	nic.MTU = 1400
	c.NICs = []hypervisor.NIC{nic}
	args := arguments(KVM, c, descriptors{qmp: 3, console: 4, vsock: 5, fs: 6, taps: []int{7}})
	all := strings.Join(args, "\n")
	for _, want := range []string{
		`socket,id=qmp,fd=3`, `socket,id=console,fd=4`, `socket,id=vsock,fd=5`, `socket,id=fs,fd=6`,
		`"filename":"/k/guest,x.img"`, `"tag":"share"`, `"fd":"7"`, `"host_mtu":1400`, `"mac":"02:00:00:00:00:01"`,
		`"size":67108864`, "reboot=shutdown,panic=shutdown", "spawn=deny",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if strings.Contains(all, c.FSSocket) || strings.Contains(all, c.Dir) {
		t.Error("QEMU learns a path of the VM's folder")
	}
	ports := 0
	for _, d := range after(args, "-device") {
		if strings.Contains(d, "pcie-root-port") {
			ports++
		}
	}
	if ports != 1+sparePorts {
		t.Errorf("%d slots for NICs, want %d", ports, 1+sparePorts)
	}
}

func TestArgumentsHaveRoomToGrow(t *testing.T) {
	c := goodConfig()
	args := arguments(KVM, c, descriptors{qmp: 3, console: 4, vsock: 5})
	if got := strings.Join(args, " "); strings.Contains(got, "virtio-mem") || strings.Contains(got, "maxmem") || strings.Contains(got, "maxcpus") {
		t.Errorf("room that nobody asked for: %s", got)
	}
	c.MaxCPUs, c.MaxMemory = c.CPUs+3, c.Memory+2*hypervisor.GrowthStep+hypervisor.GrowthStep/2
	args = arguments(KVM, c, descriptors{qmp: 3, console: 4, vsock: 5})
	if got := after(args, "-smp"); len(got) != 1 || got[0] != "1,maxcpus=4,sockets=4,cores=1,threads=1" {
		t.Errorf("-smp %q", got)
	}
	if got := after(args, "-m"); len(got) != 1 || got[0] != "64M,maxmem=320M" {
		t.Errorf("-m %q", got)
	}
	if all := strings.Join(args, "\n"); !strings.Contains(all, `"size":268435456`) || !strings.Contains(all, "virtio-mem-pci") {
		t.Errorf("no device for memory: %s", all)
	}
}

func TestArgumentsWithoutShare(t *testing.T) {
	args := arguments(TCG, goodConfig(), descriptors{qmp: 3, console: 4, vsock: 5})
	if strings.Contains(strings.Join(args, " "), "vhost-user-fs") {
		t.Error("there is a share")
	}
	if got := after(args, "-accel"); len(got) != 1 || got[0] != "tcg,thread=multi" {
		t.Errorf("-accel %q", got)
	}
}

func TestCmdlineEndsWithTheCallersWords(t *testing.T) {
	c := goodConfig()
	if got := cmdline(TCG, c); !strings.HasSuffix(got, " init=/x a=b") || !strings.Contains(got, " noreplace-smp ") {
		t.Errorf("%q", got)
	}
	c.CPUs = 2
	for _, got := range []string{cmdline(TCG, c), cmdline(KVM, goodConfig())} {
		if strings.Contains(got, "noreplace-smp") {
			t.Errorf("%q: lock prefixes are needed", got)
		}
	}
}

func TestNames(t *testing.T) {
	kvm, tcg := New(Options{Accel: KVM}), New(Options{Accel: TCG})
	if kvm.Name() != "qemu" || !kvm.Isolates() {
		t.Errorf("with KVM: %q, isolates %v", kvm.Name(), kvm.Isolates())
	}
	if tcg.Name() != "qemu (emulation)" || tcg.Isolates() {
		t.Errorf("emulated: %q, isolates %v", tcg.Name(), tcg.Isolates())
	}
}
