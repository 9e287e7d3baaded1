package share

import (
	"fmt"
	"os"
	"testing"

	"github.com/nanoclaw/nanoclaw/internal/testns"
	"github.com/nanoclaw/nanoclaw/shim/hidefs"
)

// TestMain runs the tests of this package in a mount namespace of their own.
func TestMain(m *testing.M) {
	if hidefs.IsServer(os.Args) {
		hidefs.Main()
	}
	if os.Getuid() != 0 {
		fmt.Println("skipped: only root can make mounts")
		return
	}
	testns.Main(m)
}
