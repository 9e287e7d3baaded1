package config

import "github.com/nanoclaw/nanoclaw/hypervisor/choose"

// Choice is what a hypervisor is chosen by.
func (c Config) Choice() choose.Config {
	return choose.Config{
		Hypervisor:       c.Hypervisor,
		AllowEmulation:   c.AllowEmulation,
		CloudHypervisor:  c.CloudHypervisor,
		QEMU:             c.QEMU,
		VhostDeviceVsock: c.VhostDeviceVsock,
		Kernel:           c.Kernel,
		Image:            c.Image,
		Dir:              c.RunDir,
		File:             c.File,
	}
}
