package qemu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nanoclaw/nanoclaw/hypervisor/internal/vmtest"
)

// TestMain makes this binary three programs: the tests, the guest's PID 1, and
// the fakes that the unit tests run in place of QEMU and its vsock device.
func TestMain(m *testing.M) {
	vmtest.Guest()
	if behaviour, ok := strings.CutPrefix(filepath.Base(os.Args[0]), fakePrefix); ok {
		os.Exit(fake(behaviour))
	}
	os.Exit(m.Run())
}
