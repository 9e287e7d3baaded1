package sandbox

import (
	"io"
	"os"
	"testing"

	"github.com/containerd/log"

	"github.com/nanoclaw/nanoclaw/internal/testns"
)

// TestMain runs the tests in a mount namespace of their own, as the shim is run.
// Without root they run where they are, and those that mount are skipped.
func TestMain(m *testing.M) {
	// What goes wrong here is meant to.
	log.L.Logger.SetOutput(io.Discard)
	if os.Getuid() != 0 {
		os.Exit(m.Run())
	}
	testns.Main(m)
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can make mounts, cgroups and network namespaces")
	}
}
