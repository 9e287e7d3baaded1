package attempts

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() {
	add(Any, "the container cannot speak to the host or the agent by AF_VSOCK", map[string]func() error{
		"vsock-stream":  func() error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM) },
		"vsock-dgram":   func() error { return socket(unix.AF_VSOCK, unix.SOCK_SEQPACKET) },
		"vsock-as-user": func() error { return ran(as(1000, Self, "vsock")) },
		"vsock-uring":   vsockURing,
	})
	add(Any, "the container cannot see or change the gate, or load programs of its own into the kernel", map[string]func() error{
		"bpf-list":   func() error { return bpf(11, []uint32{0, 0}) },
		"bpf-create": func() error { return bpf(0, []uint32{2, 4, 4, 1}) },
		"perf-open":  perfOpen,
	})
	add(Any, "the container makes no user namespace", map[string]func() error{
		"userns-clone":   func() error { return runs(Self, "clone-user") },
		"userns-as-user": func() error { return ran(as(1000, Self, "clone-user")) },
		"userns-tmpfs":   func() error { return ran(as(1000, Self, "user-tmpfs")) },
	})
	add(Any, "the container changes no mount", map[string]func() error{
		"mount-tmpfs":    func() error { return unix.Mount("tmpfs", Work, "tmpfs", 0, "") },
		"mount-bind":     func() error { return unix.Mount(Work, Tmp, "", unix.MS_BIND, "") },
		"mount-remount":  func() error { return unix.Mount("", "/proc", "", unix.MS_REMOUNT|unix.MS_BIND, "") },
		"mount-proc":     func() error { return unix.Mount("proc", Work, "proc", 0, "") },
		"mount-cgroup":   func() error { return unix.Mount("cgroup2", Work, "cgroup2", 0, "") },
		"mount-unmount":  func() error { return unix.Unmount("/sys", unix.MNT_DETACH) },
		"mount-fsopen":   mountFsopen,
		"mount-tree":     mountTree,
		"mount-pivot":    mountPivot,
		"mount-unshared": func() error { return runs(Self, "unshare-mount") },
		"mount-setattr":  mountSetattr,
		"mount-fspick":   mountFspick,
	})
	add(Any, "a process that is not one's child is not traced", map[string]func() error{
		"ptrace-attach": func() error { return tracing(ptraceAttach) },
		"ptrace-memory": func() error { return tracing(ptraceMemory) },
		"ptrace-writev": func() error { return tracing(ptraceWritev) },
		"ptrace-get-fd": func() error { return tracing(ptraceGetFD) },
	})
	add(Any, "the kernel starts no program of the container's outside of it", map[string]func() error{
		"helper-core": helperCore,
	})
	const kernel = "what the kernel does to the container is not changed by it"
	knobs := map[string]func() error{
		"sysfs-write":  sysfsWrite,
		"proc-pci":     func() error { return openFor("/proc/bus/pci/00/00.0", unix.O_RDWR) },
		"proc-irq":     func() error { return openFor("/proc/irq/default_smp_affinity", unix.O_WRONLY) },
		"proc-dump":    func() error { return openFor("/proc/sys/fs/suid_dumpable", unix.O_WRONLY) },
		"proc-by-root": func() error { return openFor("/proc/self/root/proc/bus/pci/00/00.0", unix.O_RDWR) },
	}
	add(Any, kernel, knobs)
	add(Any, kernel, map[string]func() error{
		"proc-hooks": func() error { return withoutHooks("/proc", func() error { return runs(Denied) }) },
	})
	add(Mounts, kernel, map[string]func() error{
		"mounts-hooks":   mountsHooks,
		"mounts-tracefs": func() error { return unix.Mount("tracefs", Work, "tracefs", 0, "") },
	})
	beside := map[string]func() error{
		"beside-bpf":   func() error { return bpf(11, []uint32{0, 0}) },
		"beside-hooks": func() error { return withoutHooks("/proc", func() error { return nil }) },
	}
	for name, try := range knobs {
		beside["beside-"+name] = try
	}
	add(Beside, "a container that has no gate does not take away that of another", beside)
	add(Traces, "a program does not run with arguments that a rule denies, where any process may be traced", map[string]func() error{
		"args-seize":      argsSeize,
		"args-traced-too": argsTraced,
	})
	add(Mounts, "a denied program does not run, where the container may mount", map[string]func() error{
		"mounts-bind":           mountsBind,
		"mounts-overlay":        mountsOverlay,
		"mounts-overlay-fsopen": mountsOverlayFsopen,
		"mounts-overlay-userns": func() error { return ran(inUserNamespace(Self, "overlay-and-run")) },
		"mounts-moved":          mountsMoved,
		"mounts-race":           mountsRace,
		"mounts-tree":           mountsTree,
		"mounts-cgroup":         mountsCgroup,
		"mounts-tmpfs":          mountsTmpfs,
		"mounts-pivot":          func() error { return runs(Self, "pivot-and-run") },
		"mounts-unshared":       func() error { return runs(Self, "unshare-and-run") },
	})
	addKernel(Any, "the kernel takes no code", map[string]func() error{
		"kernel-module":      func() error { return unix.InitModule([]byte("x"), "") },
		"kernel-kexec":       kexec,
		"kernel-mem":         func() error { return openNode("/work/mem", 1, 1) },
		"kernel-port":        func() error { return openNode("/work/port", 1, 4) },
		"kernel-kcore":       func() error { return openFor("/proc/kcore", unix.O_RDONLY) },
		"kernel-module-file": func() error { return unix.FinitModule(0, "", 0) },
		"kernel-msr":         func() error { return openNode("/work/msr", 202, 0) },
		"kernel-nvram":       func() error { return openNode("/work/nvram", 10, 144) },
		"kernel-ports":       func() error { return unix.Iopl(3) },
		"kernel-sysrq":       func() error { return openFor("/proc/sysrq-trigger", unix.O_WRONLY) },
		"kernel-uselib":      kernelUselib,
		"kernel-binfmt":      func() error { return unix.Mount("binfmt_misc", Work, "binfmt_misc", 0, "") },
		"kernel-debugfs":     func() error { return unix.Mount("debugfs", Work, "debugfs", 0, "") },
		"kernel-swap":        kernelSwap,
		"kernel-userfaultfd": kernelUserfaultfd,
	})
	addKernel(Mounts, "no hierarchy of groups is made that starts programs outside of the container", map[string]func() error{
		"kernel-cgroup-v1": func() error { return unix.Mount("cgroup", Work, "cgroup", 0, "none,name=x") },
	})
	addKernel(Any, "the agent is out of reach", map[string]func() error{
		"agent-kill":   agentKill,
		"agent-setns":  agentSetns,
		"agent-cgroup": agentCgroup,
		"agent-reboot": agentReboot,
		"agent-signal": agentSignal,
	})
	role("vsock", func([]string) error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM) })
	role("clone-user", func([]string) error { return ran(inUserNamespace(Self, "nothing")) })
	role("user-tmpfs", func([]string) error { return ran(inUserNamespace(Self, "mount-and-run")) })
	role("nothing", func([]string) error { return nil })
	role("mount-and-run", func([]string) error {
		if err := unix.Mount("tmpfs", Work, "tmpfs", 0, ""); err != nil {
			return err
		}
		return runOwn("/work/own")
	})
	role("unshare-mount", func([]string) error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		return unix.Mount("tmpfs", Work, "tmpfs", 0, "")
	})
	role("unshare-and-run", func([]string) error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		return mountsBind()
	})
	role("overlay-and-run", func([]string) error { return mountsOverlay() })
	role("reboot", func([]string) error { return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) })
	role("pivot-and-run", pivotAndRun)
	role("leak", leak)
	role("sleep", func([]string) error { time.Sleep(20 * time.Second); return nil })
}

func socket(family, kind int) error {
	fd, err := unix.Socket(family, kind, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func bpf(command uintptr, words []uint32) error {
	attr := make([]uint32, 32)
	copy(attr, words)
	fd, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(&attr[0])), uintptr(len(attr)*4))
	if errno == unix.ENOENT {
		// There is nothing to list, and it was allowed to ask.
		return nil
	}
	if errno != 0 {
		return errno
	}
	if command == 0 {
		return unix.Close(int(fd))
	}
	return nil
}

func perfOpen() error {
	attr := &unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})), Config: unix.PERF_COUNT_SW_CPU_CLOCK}
	fd, err := unix.PerfEventOpen(attr, 0, -1, -1, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// inUserNamespace is a command that is root in a user namespace of its own, with
// a mount namespace, for which its user needs no capability.
func inUserNamespace(path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	return cmd
}

func fsopen(kind string) (int, error) {
	fs, err := unix.Fsopen(kind, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return 0, err
	}
	return unix.Fsmount(fs, 0, 0)
}

// mountFsopen makes a file system that is never attached anywhere.
func mountFsopen() error {
	fd, err := fsopen("tmpfs")
	if err != nil {
		return err
	}
	name := "/proc/" + itoa(os.Getpid()) + "/fd/" + itoa(fd) + "/own"
	return runOwn(name)
}

func mountTree() error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/usr", unix.OPEN_TREE_CLONE)
	if err != nil {
		return err
	}
	return unix.MoveMount(fd, "", unix.AT_FDCWD, Work, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

func vsockURing() error {
	fd, err := byURing(opSocket, unix.AF_VSOCK, "", unix.SOCK_STREAM, 0, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// mountSetattr changes a mount by a system call that asks no hook about mounts.
func mountSetattr() error {
	return unix.MountSetattr(unix.AT_FDCWD, Tmp, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID})
}

// mountFspick configures a file system that is mounted anew.
func mountFspick() error {
	fd, err := unix.Fspick(unix.AT_FDCWD, Tmp, 0)
	if err != nil {
		return err
	}
	if err := unix.FsconfigSetString(fd, "size", "1M"); err != nil {
		return err
	}
	return unix.FsconfigReconfigure(fd)
}

// withoutHooks turns off what the gate's programs are called by, and says whether that did anything.
func withoutHooks(proc string, try func() error) error {
	name := proc + "/sys/kernel/ftrace_enabled"
	if err := os.WriteFile(name, []byte("0"), 0); err != nil {
		return err
	}
	defer func() { _ = os.WriteFile(name, []byte("1"), 0) }()
	return try()
}

func mountsHooks() error {
	if err := unix.Mount("proc", Work, "proc", 0, ""); err != nil {
		return err
	}
	return withoutHooks(Work, func() error { return runs(Denied) })
}

func mountsOverlayFsopen() error {
	fs, err := unix.Fsopen("overlay", 0)
	if err != nil {
		return err
	}
	for _, lower := range []string{"/usr/bin", "/etc"} {
		if err := unix.FsconfigSetString(fs, "lowerdir+", lower); err != nil {
			return err
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return err
	}
	fd, err := unix.Fsmount(fs, 0, 0)
	if err != nil {
		return err
	}
	return runs("/proc/" + itoa(os.Getpid()) + "/fd/" + itoa(fd) + "/denied")
}

// mountsMoved covers the programs' folder and looks for the program at another place.
func mountsMoved() error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/usr", unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, Work, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/usr", "tmpfs", 0, ""); err != nil {
		return err
	}
	return runs("/work/bin/denied")
}

// mountsRace mounts the program over another and away again, while that is started.
func mountsRace() error {
	const cover = "/usr/bin/cover"
	if err := os.WriteFile(cover, tiny("harmless\n"), 0o755); err != nil { //nolint:gosec // a program
		return err
	}
	return race(func() error { return runs(cover) },
		func() { _ = unix.Mount(Denied, cover, "", unix.MS_BIND, "") },
		func() { _ = unix.Unmount(cover, unix.MNT_DETACH) })
}

// argsSeize takes hold of a program that runs already and is nobody's child here.
func argsSeize() error {
	return tracingOf(Args, ptraceAttach)
}

func kernelUselib() error {
	name, err := unix.BytePtrFromString(Image)
	if err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_USELIB, uintptr(unsafe.Pointer(name)), 0, 0); errno != 0 {
		return errno
	}
	return nil
}

func kernelSwap() error {
	name, err := unix.BytePtrFromString(File)
	if err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_SWAPON, uintptr(unsafe.Pointer(name)), 0, 0); errno != 0 {
		return errno
	}
	return nil
}

func kernelUserfaultfd() error {
	if _, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// agentReboot ends the VM, or in a namespace of its own only that.
func agentReboot() error {
	cmd := exec.Command(Self, "reboot")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	return ran(cmd)
}

// agentSignal stops every process that it sees, but for itself.
func agentSignal() error { return unix.Kill(-1, unix.SIGSTOP) }

func mountPivot() error {
	if err := unix.Mount(Work, Work, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return unix.PivotRoot(Work, Work)
}

func mountsBind() error {
	if err := os.WriteFile("/work/cover", nil, 0o755); err != nil { //nolint:gosec // a program
		return err
	}
	return then(unix.Mount(Denied, "/work/cover", "", unix.MS_BIND, ""), "/work/cover")
}

// mountsOverlay shows the programs through a file system of the container's,
// where they are other files.
func mountsOverlay() error {
	return then(unix.Mount("overlay", Work, "overlay", 0, "lowerdir=/usr/bin:/etc"), "/work/denied")
}

func mountsTree() error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/usr/bin", unix.OPEN_TREE_CLONE)
	if err != nil {
		return err
	}
	return runs("/proc/" + itoa(os.Getpid()) + "/fd/" + itoa(fd) + "/denied")
}

// mountsCgroup tries to leave the group by which the container is known.
func mountsCgroup() error {
	if err := unix.Mount("cgroup2", Work, "cgroup2", 0, ""); err != nil {
		return err
	}
	if err := os.Mkdir("/work/below", 0o755); err != nil {
		return err
	}
	for _, group := range []string{"/work/below", "/work/..", "/work/../.."} {
		_ = os.WriteFile(group+"/cgroup.procs", []byte("0"), 0)
	}
	return runs(Denied)
}

func mountsTmpfs() error {
	if err := unix.Mount("tmpfs", Work, "tmpfs", 0, ""); err != nil {
		return err
	}
	return thenCopy("/work/copy")
}

func pivotAndRun([]string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("/usr", "/usr", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := os.Chdir("/usr"); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	return runs("/bin/denied")
}

// tracing gives attack a process that is not a child of it.
func tracing(attack func(pid int) error) error { return tracingOf(Self, attack) }

func tracingOf(program string, attack func(pid int) error) error {
	cmd := exec.Command(Self, "in-session", program, "sleep")
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	for range 2000 {
		time.Sleep(10 * time.Millisecond)
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
		if err != nil {
			return err
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
		if err != nil {
			continue
		}
		// Go tries its process handles on a child that is gone at once and has the
		// name of its parent.
		if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && string(line) == program+"\x00sleep\x00" {
			defer func() { _ = unix.Kill(pid, unix.SIGKILL) }()
			return attack(pid)
		}
	}
	return errors.New("there is no process to trace")
}

func ptraceAttach(pid int) error { return unix.PtraceSeize(pid) }

func ptraceMemory(pid int) error { return openFor(fmt.Sprintf("/proc/%d/mem", pid), unix.O_RDWR) }

func ptraceWritev(pid int) error {
	// Where this program is loaded, the other has the same.
	b := []byte{0}
	local := []unix.Iovec{{Base: &b[0], Len: 1}}
	remote := []unix.RemoteIovec{{Base: loadAddress, Len: 1}}
	_, err := unix.ProcessVMReadv(pid, local, remote, 0)
	return err
}

func ptraceGetFD(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	_, err = unix.PidfdGetfd(fd, 1, 0)
	return err
}

// helperCore has the kernel start a program of the container's for a core dump:
// as root, in the agent's namespaces, outside of every container.
func helperCore() error {
	const pattern = "/proc/sys/kernel/core_pattern"
	before, err := os.ReadFile(pattern)
	if err != nil {
		return err
	}
	defer func() { _ = os.WriteFile(pattern, before, 0) }()
	if err := os.WriteFile(pattern, []byte("|/proc/%P/root"+Self+" leak %P"), 0); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}); err != nil {
		return err
	}
	if err := os.WriteFile("/work/crash", crashing(), 0o755); err != nil { //nolint:gosec // a program
		return err
	}
	_ = exec.Command("/work/crash").Run()
	for range 50 {
		if _, err := os.Stat("/work/leak"); err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return errors.New("the helper did not run")
}

// leak is the helper. It writes before it takes the dump, since the process that
// crashed is there until then.
func leak(args []string) error {
	return os.WriteFile("/proc/"+args[0]+"/root/work/leak", nil, 0o600)
}

// sysfsWrite opens a file through which a device of the VM is configured.
func sysfsWrite() error { return openFor("/sys/bus/pci/rescan", unix.O_WRONLY) }

func kexec() error {
	_, _, errno := unix.Syscall6(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func openNode(path string, major, minor uint32) error {
	if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(major, minor))); err != nil {
		return err
	}
	return openFor(path, unix.O_RDWR)
}

// agentKill looks for a process that is not the container's.
func agentKill() error {
	if os.Getpid() == 1 {
		return errors.New("process 1 is the container's own")
	}
	exe, err := os.Readlink("/proc/1/exe")
	if err != nil {
		return err
	}
	if exe == Self {
		return errors.New("process 1 is the container's own")
	}
	return unix.Kill(1, unix.SIGKILL)
}

func agentSetns() error {
	own, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		other, err := os.Readlink("/proc/" + e.Name() + "/ns/pid")
		if err == nil && other != own {
			return nil
		}
	}
	return errors.New("every process is of the container's namespace")
}

func agentCgroup() error {
	raw, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(raw)) != "0::/" {
		return fmt.Errorf("the group is %q", raw)
	}
	return errors.New("the container's group is its root")
}
