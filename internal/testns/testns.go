// Package testns runs a package's tests in a mount namespace of their own, where
// nothing that they mount can reach the machine. It is for TestMain of tests that
// run as root, and for nothing else.
package testns

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inside is set in the test binary that was run again.
const inside = "NANOCLAW_TEST_NAMESPACE"

// Inside reports whether the tests run in a namespace of their own.
func Inside() bool { return os.Getenv(inside) != "" }

// Main runs the test binary again in a mount namespace, and there the tests. The
// namespace is made for the whole process: a thread's own would not be enough. It
// needs root and does not return.
func Main(m *testing.M) {
	if !Inside() {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Run(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
