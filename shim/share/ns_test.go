package share

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/shim/hidefs"
)

// inNamespace is set in the re-executed test binary.
const inNamespace = "NANOCLAW_SHARE_TEST_NAMESPACE"

// TestMain runs the tests of this package in a mount namespace of their own,
// where nothing that they mount can reach the machine. The namespace is made for
// the whole process: a thread's own would not be enough.
func TestMain(m *testing.M) {
	if hidefs.IsServer(os.Args) {
		hidefs.Main()
	}
	if os.Getuid() != 0 {
		fmt.Println("skipped: only root can make mounts")
		return
	}
	if os.Getenv(inNamespace) == "" {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), inNamespace+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Run(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
