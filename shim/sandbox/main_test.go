package sandbox

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// inNamespace is set in the re-executed test binary.
const inNamespace = "NANOCLAW_SANDBOX_TEST_NAMESPACE"

// TestMain runs the tests in a mount namespace of their own, as the shim is run.
// Without root they run where they are, and those that mount are skipped.
func TestMain(m *testing.M) {
	// What goes wrong here is meant to.
	log.L.Logger.SetOutput(io.Discard)
	if os.Getuid() != 0 {
		os.Exit(m.Run())
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

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can make mounts, cgroups and network namespaces")
	}
}
