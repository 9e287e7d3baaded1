package attempts

import (
	"encoding/binary"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() {
	add(Any, "a program does not run with arguments that a rule denies", map[string]func() error{
		"args-plain":         func() error { return runs(Args, Push) },
		"args-last":          func() error { return runs(Args, "-x", "--", "origin", Push) },
		"args-far":           func() error { return runs(Args, append(hugeArgs(), Push)...) },
		"args-across":        func() error { return runs(Args, strings.Repeat("x", 2048-len(Args)-1-2), Push) },
		"args-odd-name":      argsOddName,
		"args-empty-name":    argsEmptyName,
		"args-script":        func() error { return runScript("#!" + Args + " " + Push + "\n") },
		"args-copy":          func() error { return copied(Args, "/work/copy", Push) },
		"args-hard-link":     func() error { return linked(Args, "/work/l", Push) },
		"args-map":           func() error { return mapCode(Args, unix.PROT_READ|unix.PROT_EXEC) },
		"args-uring-copy":    argsURing,
		"args-race":          argsRace,
		"args-symlink":       func() error { return symlinked(Args, "/work/l", Push) },
		"args-proc-fd":       argsProcFD,
		"args-user":          func() error { return ran(as(1000, Args, Push)) },
		"args-after-error":   argsAfterError,
		"args-in-order":      func() error { return runs(Args, "-v", First, "-f", Second, "x") },
		"args-twice":         func() error { return runs(Args, Second, First, Second) },
		"args-empty":         func() error { return runs(Args, "", "", Push, "") },
		"args-first-process": argsFirstProcess,
		"args-traced":        argsTraced,
		"args-memory":        argsMemory,
	})
}

func runScript(content string) error {
	return then(os.WriteFile("/work/s", []byte(content), 0o755), "/work/s") //nolint:gosec // a program
}

func copied(from, to string, args ...string) error {
	if err := copyFile(to, from); err != nil {
		return err
	}
	return runs(to, args...)
}

func linked(from, to string, args ...string) error {
	if err := os.Link(from, to); err != nil {
		return err
	}
	return runs(to, args...)
}

func symlinked(from, to string, args ...string) error {
	if err := os.Symlink(from, to); err != nil {
		return err
	}
	return runs(to, args...)
}

// argsOddName gives the program its forbidden argument behind a name that is
// one itself.
func argsOddName() error { return ran(&exec.Cmd{Path: Args, Args: []string{Push, Push}}) }

func argsEmptyName() error { return ran(&exec.Cmd{Path: Args, Args: []string{"", "", Push}}) }

func argsProcFD() error {
	fd, err := unix.Open(Args, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	return runs("/proc/self/fd/"+itoa(fd), Push)
}

// argsFirstProcess runs it as the first process of a namespace, which signals do not end that come from within.
func argsFirstProcess() error {
	cmd := exec.Command(Args, Push)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	return ran(cmd)
}

// argsTraced starts the program with another argument, stops it before its first instruction and changes that.
func argsTraced() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command(Args, "pull")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	pid := cmd.Process.Pid
	defer func() { _ = cmd.Process.Kill() }()
	var ws unix.WaitStatus
	if _, err := unix.Wait4(pid, &ws, 0, nil); err != nil {
		return err
	}
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(pid, &regs); err != nil {
		return err
	}
	// At the stack's top is the number of arguments, then where each is.
	pointer := make([]byte, 8)
	if _, err := unix.PtracePeekData(pid, uintptr(regs.Rsp)+16, pointer); err != nil {
		return err
	}
	at := uintptr(binary.LittleEndian.Uint64(pointer))
	if _, err := unix.PtracePokeData(pid, at, []byte(Push)); err != nil {
		return err
	}
	if err := unix.PtraceDetach(pid); err != nil {
		return err
	}
	_ = cmd.Wait()
	if strings.Contains(out.String(), gotPush) {
		return nil
	}
	return errSilent
}

// argsMemory opens the program's memory while it runs.
func argsMemory() error {
	cmd := exec.Command(Args, "sleep")
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	return ptraceMemory(cmd.Process.Pid)
}

func argsURing() error {
	content, err := uringRead(Args)
	if err != nil {
		return err
	}
	if err := os.WriteFile("/work/copy", content, 0o755); err != nil { //nolint:gosec // a program
		return err
	}
	return runs("/work/copy", Push)
}

// argsAfterError has an exec that fails go before, whose findings must not be
// those of the next.
func argsAfterError() error {
	_ = runScript("#!" + Args + "/none\n")
	return runs(Args, Push)
}

func itoa(n int) string {
	digits := ""
	for ; n >= 10; n /= 10 {
		digits = string(rune('0'+n%10)) + digits
	}
	return string(rune('0'+n)) + digits
}

func init() {
	role("change-args", func([]string) error {
		word := append([]byte("pull"), 0)
		name := append([]byte(Args), 0)
		argv := []*byte{&name[0], &word[0], nil}
		env, err := syscall.SlicePtrFromStrings(os.Environ())
		if err != nil {
			return err
		}
		// The other thread is to run while this one is in the kernel.
		runtime.GOMAXPROCS(4)
		var stop atomic.Bool
		go func() {
			runtime.LockOSThread()
			for !stop.Load() {
				copy(word, "push")
				copy(word, "pull")
			}
		}()
		time.Sleep(time.Millisecond)
		_, _, errno := unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(&name[0])),
			uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&env[0])))
		stop.Store(true)
		return errno
	})
}

// argsRace changes the argument while the kernel reads it. The program prints
// the marker with either word; so it prints what it was given.
func argsRace() error {
	err := errSilent
	for range 40 {
		out, _ := exec.Command(Self, "change-args").CombinedOutput()
		if strings.Contains(string(out), gotPush) {
			return nil
		}
	}
	return err
}

// gotPush is what the program prints when it runs with the forbidden argument.
const gotPush = "WITH PUSH"
