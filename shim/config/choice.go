package config

import "github.com/nanoclaw/nanoclaw/hypervisor/choose"

// Choice is what a hypervisor is chosen by. file is the configuration's, for
// messages.
func (c Config) Choice(file string) choose.Config {
	return choose.Config{
		Hypervisor:       c.Hypervisor,
		AllowEmulation:   c.AllowEmulation,
		CloudHypervisor:  c.CloudHypervisor,
		QEMU:             c.QEMU,
		VhostDeviceVsock: c.VhostDeviceVsock,
		Kernel:           c.Kernel,
		Image:            c.Image,
		Dir:              c.RunDir,
		File:             file,
	}
}
