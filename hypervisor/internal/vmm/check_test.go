package vmm

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/nanoclaw/nanoclaw/hypervisor"
)

// goodConfig is what Check accepts.
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
	if err := Check(goodConfig(), "quiet"); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*hypervisor.Config){
		"absolute":       func(c *hypervisor.Config) { c.Image = "guest.img" },
		"60":             func(c *hypervisor.Config) { c.Dir = "/" + strings.Repeat("x", 60) },
		"CPUs":           func(c *hypervisor.Config) { c.CPUs = 0 },
		"2 MiB":          func(c *hypervisor.Config) { c.Memory++ },
		"reserved":       func(c *hypervisor.Config) { c.CID = 2 },
		"socket":         func(c *hypervisor.Config) { c.FSSocket, c.FSTag = "s", "a" },
		"tag":            func(c *hypervisor.Config) { c.FSSocket, c.FSTag = "/s", "a b" },
		"parameter":      func(c *hypervisor.Config) { c.Cmdline = []string{"a=b init=/bin/sh"} },
		"2047":           func(c *hypervisor.Config) { c.Cmdline = []string{strings.Repeat("x", 2048)} },
		"two NICs":       func(c *hypervisor.Config) { c.NICs = []hypervisor.NIC{goodNIC(), goodNIC()} },
		"no tap":         func(c *hypervisor.Config) { c.NICs = []hypervisor.NIC{goodNIC()}; c.NICs[0].Tap = nil },
		"MAC":            func(c *hypervisor.Config) { c.NICs = []hypervisor.NIC{goodNIC()}; c.NICs[0].MAC = nil },
		"NIC id \"a,b\"": func(c *hypervisor.Config) { c.NICs = []hypervisor.NIC{goodNIC()}; c.NICs[0].ID = "a,b" },
	} {
		c := goodConfig()
		spoil(&c)
		if err := Check(c, strings.Join(c.Cmdline, " ")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error about %q, got %v", want, err)
		}
	}
}
