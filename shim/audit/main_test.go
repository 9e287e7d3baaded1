package audit

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inNamespace is set in the re-executed test binary, asWriter in the processes
// that a test starts to write and be killed.
const (
	inNamespace = "NANOCLAW_AUDIT_TEST_NAMESPACE"
	asWriter    = "NANOCLAW_AUDIT_TEST_WRITER"
)

// TestMain runs the tests of root in a mount namespace of their own, where a full
// disk can be made.
func TestMain(m *testing.M) {
	if dir := os.Getenv(asWriter); dir != "" {
		writeForEver(dir)
	}
	if os.Getuid() == 0 && os.Getenv(inNamespace) == "" {
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
	if os.Getenv(inNamespace) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// writeForEver writes records until it is killed.
func writeForEver(dir string) {
	l := NewLog(Options{Dir: dir, MaxSize: 1 << 20, Keep: 100})
	for n := 0; ; n++ {
		if err := l.Append(event(fmt.Sprint(os.Getpid()), n)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(n)
	}
}

func event(container string, n int) Record {
	return Record{Container: container, Entry: Entry{
		Event: Exec, Decision: Deny, Rule: "exec.deny",
		Subject: &Subject{Argv: []string{"/bin/prog", fmt.Sprint(n)}},
	}}
}
