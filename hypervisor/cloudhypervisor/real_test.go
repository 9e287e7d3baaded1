package cloudhypervisor

import (
	"testing"

	"github.com/nanoclaw/nanoclaw/hypervisor/internal/vmtest"
)

// realDriver is the real Cloud Hypervisor, or skips the test: "make test-kvm"
// makes a machine on which it runs.
func realDriver(t *testing.T) vmtest.Driver {
	t.Helper()
	if !vmtest.KVM() {
		t.Skip("NANOCLAW_TEST_ACCEL=kvm does not say that this machine's KVM boots guests")
	}
	return vmtest.Driver{Hypervisor: New(Options{Binary: vmtest.Program(t, "cloud-hypervisor")})}
}

func TestReal(t *testing.T) { vmtest.Suite(t, realDriver(t)) }
