package qemu

import (
	"testing"

	"github.com/nanoclaw/nanoclaw/hypervisor/internal/vmtest"
)

// With emulation, or with KVM where NANOCLAW_TEST_ACCEL says that this
// machine's boots guests.
func TestReal(t *testing.T) {
	o := Options{
		Accel:       TCG,
		Binary:      vmtest.Program(t, "qemu-system-x86_64"),
		VsockBinary: vmtest.Program(t, "vhost-device-vsock"),
	}
	if vmtest.KVM() {
		o.Accel = KVM
	}
	vmtest.Config(t)
	vmtest.Suite(t, vmtest.Driver{
		Hypervisor: New(o), Helpers: []string{"vhost-device-vsock"}, SpareNICs: sparePorts,
	})
}
