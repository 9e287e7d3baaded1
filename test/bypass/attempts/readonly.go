package attempts

import (
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// writes are ways to change something, each as a role of a read-only tool.
var writes = map[string]func() error{
	"write":        func() error { return openFor(File, unix.O_WRONLY) },
	"append":       func() error { return openFor(File, unix.O_RDWR|unix.O_APPEND) },
	"create":       func() error { return openFor("/work/new", unix.O_WRONLY|unix.O_CREAT) },
	"tmpfile":      func() error { return openFor(Work, unix.O_RDWR|unix.O_TMPFILE) },
	"tmpfs":        func() error { return openFor(Tmp+"/new", unix.O_WRONLY|unix.O_CREAT) },
	"truncate":     func() error { return unix.Truncate(File, 0) },
	"remove":       func() error { return unix.Unlink(File) },
	"rename":       func() error { return unix.Rename(File, "/work/moved") },
	"link":         func() error { return unix.Link(File, "/work/linked") },
	"symlink":      func() error { return unix.Symlink(File, "/work/symlink") },
	"mkdir":        func() error { return unix.Mkdir("/work/dir", 0o755) },
	"rmdir":        func() error { return unix.Rmdir("/etc") },
	"mknod":        func() error { return unix.Mknod("/work/node", unix.S_IFIFO|0o600, 0) },
	"socket":       writeSocket,
	"chmod":        func() error { return unix.Chmod(File, 0o777) },
	"chown":        func() error { return unix.Chown(File, 1, 1) },
	"times":        func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, File, []unix.Timespec{{}, {}}, 0) },
	"xattr":        func() error { return unix.Setxattr(File, "user.x", []byte("y"), 0) },
	"uring":        func() error { _, err := uringOpen(File, unix.O_WRONLY); return err },
	"proc":         func() error { return openFor("/proc/sys/kernel/hostname", unix.O_WRONLY) },
	"by-proc":      func() error { return openFor("/proc/self/root"+File, unix.O_WRONLY) },
	"exchange":     func() error { return unix.Renameat2(unix.AT_FDCWD, File, unix.AT_FDCWD, Image, unix.RENAME_EXCHANGE) },
	"fd-reopen":    writeReopened,
	"flags":        func() error { return setFlags(File) },
	"acl":          writeACL,
	"queue":        writeQueue,
	"uring-remove": func() error { _, err := byURing(opUnlinkat, unix.AT_FDCWD, File, 0, 0, 0); return err },
	"uring-mkdir":  func() error { _, err := byURing(opMkdirat, unix.AT_FDCWD, "/work/dir", 0, 0o755, 0); return err },
}

func init() {
	direct := make(map[string]func() error)
	for name := range writes {
		direct["readonly-"+name] = func() error { return runs(Readonly, "try-write", name) }
	}
	direct["readonly-child"] = func() error { return runs(Readonly, "in-child", Self, "try-write", "write") }
	direct["readonly-grandchild"] = func() error {
		return runs(Readonly, "in-child", Self, "in-session", Self, "try-write", "create")
	}
	direct["readonly-thread"] = func() error { return runs(Readonly, "in-thread", "write") }
	direct["readonly-after-exec"] = func() error { return runs(Readonly, "become", Self, "try-write", "write") }
	direct["readonly-by-script"] = func() error {
		return runScript("#!" + Readonly + " as-script\n")
	}
	direct["readonly-copy"] = func() error { return copied(Readonly, "/work/copy", "try-write", "write") }
	direct["readonly-link"] = func() error { return linked(Readonly, "/work/l", "try-write", "write") }
	direct["readonly-map"] = func() error { return mapCode(Readonly, unix.PROT_READ|unix.PROT_EXEC) }
	direct["readonly-symlink"] = func() error { return symlinked(Readonly, "/work/l", "try-write", "write") }
	direct["readonly-core"] = readonlyCore
	const property = "a read-only tool changes no file, nor does what it starts"
	add(Any, property, direct)
	add(Mounts, property, map[string]func() error{
		"readonly-mount":   func() error { return runs(Readonly, "mount-over") },
		"readonly-setattr": func() error { return runs(Readonly, "change-mount") },
	})
	add(Traces, property, map[string]func() error{
		"readonly-seize": func() error {
			return tracing(func(pid int) error { return runs(Readonly, "seize", itoa(pid)) })
		},
	})
	role("mount-over", func([]string) error { return unix.Mount("/usr", Work, "", unix.MS_BIND, "") })
	role("change-mount", func([]string) error { return mountSetattr() })
	role("seize", func(args []string) error {
		pid, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		return ptraceAttach(pid)
	})
	role("core", func([]string) error {
		if err := unix.Chdir(Work); err != nil {
			return err
		}
		_ = exec.Command("/work/crash").Run()
		_, err := os.Stat("/work/core")
		return err
	})

	role("try-write", func(args []string) error { return writes[args[0]]() })
	role("in-child", func(args []string) error { return runs(args[0], args[1:]...) })
	role("in-session", func(args []string) error {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return ran(cmd)
	})
	role("in-thread", func(args []string) error {
		result := make(chan error)
		go func() { result <- writes[args[0]]() }()
		return <-result
	})
	role("become", func(args []string) error { return syscall.Exec(args[0], args, os.Environ()) })
	role("as-script", func([]string) error { return writes["write"]() })
}

// readonlyCore has the kernel write a file for the tool: what is left of a program that crashed.
func readonlyCore() error {
	if err := os.WriteFile("/work/crash", crashing(), 0o755); err != nil { //nolint:gosec // a program
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}); err != nil {
		return err
	}
	return runs(Readonly, "core")
}

// setFlags changes what chattr changes, for which reading is enough.
func setFlags(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	const noDump = 0x40
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, noDump)
}

// writeACL gives the file a list of who may use it.
func writeACL() error {
	acl := []byte{2, 0, 0, 0}
	for _, tag := range []byte{0x01, 0x04, 0x20} {
		acl = append(acl, tag, 0, 7, 0, 0xff, 0xff, 0xff, 0xff)
	}
	return unix.Setxattr(File, "system.posix_acl_access", acl, 0)
}

func writeQueue() error {
	name, err := unix.BytePtrFromString("queue")
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), unix.O_CREAT|unix.O_RDWR, 0o600, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func writeSocket() error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	return unix.Bind(fd, &unix.SockaddrUnix{Name: "/work/socket"})
}

// writeReopened opens for reading and asks for the same file again, to write.
func writeReopened() error {
	f, err := os.Open(File)
	if err != nil {
		return err
	}
	return openFor("/proc/self/fd/"+itoa(int(f.Fd())), unix.O_WRONLY)
}
