package attempts

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() {
	add(Any, "a denied program does not run, by whatever name or way", map[string]func() error{
		"denied-direct":          func() error { return runs(Denied) },
		"denied-odd-path":        func() error { return runs("//usr/bin/../../usr//bin/./denied") },
		"denied-huge-argv":       func() error { return runs(Denied, hugeArgs()...) },
		"denied-symlink":         func() error { return then(os.Symlink(Denied, "/work/l"), "/work/l") },
		"denied-odd-name":        func() error { return then(os.Symlink(Denied, "/work/\n\x1b[2J\xff\xfe"), "/work/\n\x1b[2J\xff\xfe") },
		"denied-hard-link":       func() error { return then(os.Link(Denied, "/work/l"), "/work/l") },
		"denied-rename":          func() error { return then(os.Rename(Denied, "/work/l"), "/work/l") },
		"denied-rename-dir":      func() error { return then(os.Rename("/usr/bin", "/work/bin"), "/work/bin/denied") },
		"denied-exchange":        deniedExchange,
		"denied-chroot":          deniedChroot,
		"denied-copy":            func() error { return thenCopy("/work/copy") },
		"denied-copy-tmpfs":      func() error { return thenCopy(Tmp + "/copy") },
		"denied-memfd":           deniedMemfd,
		"denied-execveat":        deniedExecveat,
		"denied-proc-fd":         deniedProcFD,
		"denied-proc-root":       func() error { return runs("/proc/self/root" + Denied) },
		"denied-proc-pid":        func() error { return runs(fmt.Sprintf("/proc/%d/root/%s", os.Getpid(), Denied)) },
		"denied-interpreter":     func() error { return thenScript("/work/s", Denied) },
		"denied-as-user":         func() error { return ran(as(1000, Denied)) },
		"denied-uring-copy":      deniedURing,
		"denied-swap-race":       deniedSwapRace,
		"denied-link-race":       deniedLinkRace,
		"denied-map":             func() error { return mapCode(Denied, unix.PROT_READ|unix.PROT_EXEC) },
		"denied-protect":         func() error { return protectCode(Denied) },
		"denied-handle":          deniedHandle,
		"denied-thread":          deniedThread,
		"denied-elf-interpreter": deniedElfInterpreter,
		"denied-script-chain":    deniedScriptChain,
		"denied-o-path-read":     deniedOPathRead,
		"denied-no-argv":         func() error { return child("no-argv", Denied) },
		"denied-long-path":       func() error { return runs("/" + strings.Repeat("./", 2040) + "usr/bin/denied") },
		"denied-dirfd":           func() error { return child("execveat-below", "/usr/bin", "denied") },
		"denied-relative":        deniedRelative,
		"denied-in-place":        func() error { return child("become", Denied) },
		"denied-uring-polled":    func() error { return uringPolled(Denied) },
		"denied-pid-namespace":   deniedPidNamespace,
		"asked-direct":           func() error { return runs(Asked) },
		"asked-copy":             func() error { return thenCopyOf(Asked, "/work/copy") },
	})
	add(Any, "a file that a rule names stays as it is", map[string]func() error{
		"change-write":    func() error { return openFor(Denied, unix.O_WRONLY) },
		"change-append":   func() error { return openFor(Args, unix.O_WRONLY|unix.O_APPEND) },
		"change-truncate": func() error { return unix.Truncate(Denied, 1) },
		"change-mode":     func() error { return os.Chmod(Denied, 0o777) },
		"change-owner":    func() error { return os.Chown(Denied, 1, 1) },
		"change-times":    func() error { return os.Chtimes(Denied, time.Unix(1, 0), time.Unix(1, 0)) },
		"change-xattr":    func() error { return unix.Setxattr(Denied, "user.x", []byte("y"), 0) },
	})
	add(Any, "a hidden program is not there", map[string]func() error{
		"hidden-exec":   func() error { return runs(Hidden) },
		"hidden-open":   func() error { return openFor(Hidden, unix.O_RDONLY) },
		"hidden-stat":   func() error { _, err := os.Stat(Hidden); return err },
		"hidden-access": func() error { return unix.Access(Hidden, unix.F_OK) },
		"hidden-link":   func() error { return then(os.Link(Hidden, "/work/l"), "/work/l") },
		"hidden-o-path": func() error { return statOf(unix.Open(Hidden, unix.O_PATH, 0)) },
		"hidden-handle": func() error { return openByHandle(Hidden) },
		"hidden-xattr":  func() error { return none(unix.Getxattr(Hidden, "security.capability", nil)) },
		"hidden-xattrs": func() error { return none(unix.Listxattr(Hidden, nil)) },
		"hidden-watch":  hiddenWatch,
	})
	addKernel(Any, "there are no 32-bit system calls", map[string]func() error{
		"kernel-32-bit": func() error {
			return then(os.WriteFile("/work/p", tiny32(Marker+"\n"), 0o755), "/work/p") //nolint:gosec // a program
		},
	})
}

// then runs a program if what prepared it worked.
func then(err error, path string) error {
	if err != nil {
		return err
	}
	return runs(path)
}

func thenCopy(to string) error { return thenCopyOf(Denied, to) }

func thenCopyOf(from, to string) error { return then(copyFile(to, from), to) }

func thenScript(path, interpreter string) error {
	return then(os.WriteFile(path, []byte("#!"+interpreter+"\n"), 0o755), path) //nolint:gosec // a program
}

func openFor(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func hugeArgs() []string {
	args := make([]string, 60)
	for i := range args {
		args[i] = strings.Repeat("x", 2000)
	}
	return args
}

func as(uid uint32, path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return cmd
}

func deniedExchange() error {
	if err := unix.Renameat2(unix.AT_FDCWD, Image, unix.AT_FDCWD, Denied, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	return runs(Image)
}

// deniedChroot looks for the program under another root, where it has the name
// of one that may run.
func deniedChroot() error {
	if err := os.MkdirAll("/work/root/usr", 0o755); err != nil {
		return err
	}
	if err := os.Rename("/usr/bin", "/work/root/usr/bin"); err != nil {
		return err
	}
	cmd := exec.Command(Denied)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: "/work/root"}
	return ran(cmd)
}

func deniedMemfd() error {
	content, err := os.ReadFile(Denied)
	if err != nil {
		return err
	}
	return runMemory(content)
}

func runMemory(content []byte) error {
	fd, err := unix.MemfdCreate("x", 0)
	if err != nil {
		return err
	}
	if _, err := unix.Write(fd, content); err != nil {
		return err
	}
	return runs(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd))
}

// child runs this program in a role, for what replaces the process.
func child(name string, args ...string) error { return runs(Self, append([]string{name}, args...)...) }

func init() {
	role("execveat", func(args []string) error {
		fd, err := unix.Open(args[0], unix.O_PATH, 0)
		if err != nil {
			return err
		}
		empty, err := unix.BytePtrFromString("")
		if err != nil {
			return err
		}
		argv, err := syscall.SlicePtrFromStrings([]string{"x"})
		if err != nil {
			return err
		}
		_, _, errno := unix.Syscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(empty)),
			uintptr(unsafe.Pointer(&argv[0])), 0, unix.AT_EMPTY_PATH, 0)
		return errno
	})
	role("execveat-below", func(args []string) error {
		dir, err := unix.Open(args[0], unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		name, err := unix.BytePtrFromString(args[1])
		if err != nil {
			return err
		}
		argv, err := syscall.SlicePtrFromStrings(args[1:])
		if err != nil {
			return err
		}
		_, _, errno := unix.Syscall6(unix.SYS_EXECVEAT, uintptr(dir), uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(&argv[0])), 0, 0, 0)
		return errno
	})
	// Without any argument, not even a name.
	role("no-argv", func(args []string) error {
		name, err := unix.BytePtrFromString(args[0])
		if err != nil {
			return err
		}
		_, _, errno := unix.Syscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(name)), 0, 0)
		return errno
	})
}

// deniedElfInterpreter has the kernel load the program as the loader of another.
func deniedElfInterpreter() error {
	return then(os.WriteFile("/work/p", interpreted(Denied), 0o755), "/work/p") //nolint:gosec // a program
}

func deniedScriptChain() error {
	if err := os.WriteFile("/work/first", []byte("#!"+Denied+"\n"), 0o755); err != nil { //nolint:gosec // a program
		return err
	}
	return thenScript("/work/second", "/work/first")
}

// deniedOPathRead makes a descriptor that reads of one that only names.
func deniedOPathRead() error {
	fd, err := unix.Open(Denied, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	return thenCopyOf("/proc/self/fd/"+itoa(fd), "/work/copy")
}

func deniedRelative() error {
	cmd := exec.Command("./denied")
	cmd.Dir = "/usr/bin"
	return ran(cmd)
}

// deniedPidNamespace runs it as the first process of a namespace.
func deniedPidNamespace() error {
	cmd := exec.Command(Denied)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWTIME}
	return ran(cmd)
}

func statOf(fd int, err error) error {
	if err != nil {
		return err
	}
	return unix.Fstat(fd, &unix.Stat_t{})
}

// none is nil where there is a file to look at, which has no such attribute.
func none(_ int, err error) error {
	if errors.Is(err, unix.ENODATA) {
		return nil
	}
	return err
}

func hiddenWatch() error {
	fd, err := unix.InotifyInit1(0)
	if err != nil {
		return err
	}
	_, err = unix.InotifyAddWatch(fd, Hidden, unix.IN_OPEN)
	return err
}

func deniedExecveat() error { return child("execveat", Denied) }

func deniedProcFD() error {
	fd, err := unix.Open(Denied, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	return runs(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd))
}

// byNumber opens a file by its number, without any name.
func byNumber(path string) (int, error) {
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, 0)
	if err != nil {
		return 0, err
	}
	mount, err := unix.Open("/usr", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return 0, err
	}
	return unix.OpenByHandleAt(mount, handle, unix.O_RDONLY)
}

func openByHandle(path string) error { return statOf(byNumber(path)) }

func deniedHandle() error {
	fd, err := byNumber(Denied)
	if err != nil {
		return err
	}
	return runs(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd))
}

// deniedSwapRace exchanges the program with one that may run, while that is
// being started again and again.
func deniedSwapRace() error {
	other := "/usr/bin/other"
	if err := os.WriteFile(other, tiny("harmless\n"), 0o755); err != nil { //nolint:gosec // a program
		return err
	}
	return race(func() error { return runs(other) }, func() {
		_ = unix.Renameat2(unix.AT_FDCWD, other, unix.AT_FDCWD, Denied, unix.RENAME_EXCHANGE)
	})
}

func deniedLinkRace() error {
	other := "/usr/bin/other"
	if err := os.WriteFile(other, tiny("harmless\n"), 0o755); err != nil { //nolint:gosec // a program
		return err
	}
	linked := func(to string) func() {
		return func() {
			_ = os.Symlink(to, "/work/new")
			_ = os.Rename("/work/new", "/work/l")
		}
	}
	return race(func() error { return runs("/work/l") }, linked(other), linked(Denied))
}

func deniedThread() error {
	result := make(chan error)
	go func() { result <- runs(Denied) }()
	return <-result
}

// mapCode does what a dynamic loader does with a program that it is given.
func mapCode(path string, prot int) error {
	fd, err := unix.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	_, err = unix.Mmap(fd, 0, 4096, prot, unix.MAP_PRIVATE)
	return err
}

func protectCode(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	b, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
}

func deniedURing() error {
	content, err := uringRead(Denied)
	if err != nil {
		return err
	}
	if len(content) == 0 {
		return errors.New("nothing was read")
	}
	to := filepath.Join(Work, "copy")
	return then(os.WriteFile(to, content, 0o755), to) //nolint:gosec // a program
}
