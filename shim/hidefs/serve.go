package hidefs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// program is the name by which a process is started that serves the file system: the
// shim's own program, under this name.
const program = "nanoclaw-hide"

// The descriptors that the process is started with.
const (
	deviceFD = 3 + iota // the file system's side of /dev/fuse
	folderFD            // the folder
	readyFD             // where it says that it serves
)

// task is what the process is told on standard input.
type task struct {
	Destination string   `json:"destination"`
	Patterns    []string `json:"patterns"`
}

// maxTask bounds it. A policy is smaller.
const maxTask = 1 << 20

// IsServer reports whether this process was started to serve: its arguments are
// args.
func IsServer(args []string) bool { return len(args) > 0 && args[0] == program }

// Main serves the file system until it is unmounted, and ends the process.
func Main() {
	if err := serve(confine); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve serves once confine has confined the process to a folder.
func serve(confine func(folder int) error) error {
	var t task
	if err := json.NewDecoder(io.LimitReader(os.Stdin, maxTask)).Decode(&t); err != nil {
		return fmt.Errorf("read what is to be hidden: %w", err)
	}
	// What ps shows; a name of its own among the shim's.
	if err := unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&[]byte(program + "\x00")[0])), 0, 0, 0); err != nil {
		return fmt.Errorf("name the process: %w", err)
	}
	for _, fd := range []int{deviceFD, folderFD, readyFD} {
		unix.CloseOnExec(fd)
	}
	unix.Umask(0)
	raiseLimit()
	if err := confine(folderFD); err != nil {
		return err
	}
	fs, err := New(folderFD, t.Destination, t.Patterns)
	if err != nil {
		return fmt.Errorf("examine the folder: %w", err)
	}
	server, err := fuse.NewServer(fs, fmt.Sprintf("/dev/fd/%d", deviceFD), options())
	if err != nil {
		return fmt.Errorf("serve the folder: %w", err)
	}
	ready := os.NewFile(readyFD, "ready")
	_, err = ready.Write([]byte{1})
	if err := errors.Join(err, ready.Close()); err != nil {
		return fmt.Errorf("say that the folder is served: %w", err)
	}
	server.Serve()
	return nil
}

// manyFiles is how many files the process would have open: one for each that the
// VM knows.
const manyFiles = 1 << 20

// raiseLimit has the process open as many files as the host allows it to. Where
// that is not more than before, it has to do.
func raiseLimit() {
	limit := unix.Rlimit{Cur: manyFiles, Max: manyFiles}
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
}

// maxWrite is the most that is read or written at once.
const maxWrite = 1 << 20

// options are those that the file system is served with.
func options() *fuse.MountOptions {
	return &fuse.MountOptions{
		MaxWrite: maxWrite, MaxBackground: 64,
		// What is found by a look-up is judged there.
		DisableReadDirPlus: true,
		// It would want a /dev/null, which the process does not see.
		DisableSplice: true,
		// A handle of a file would be of no use once the kernel has forgotten the
		// file; whoever asks for one keeps the file open instead.
		ExtraCapabilities: fuse.CAP_NO_EXPORT_SUPPORT,
	}
}

// rights are the capabilities that the process keeps: those of virtiofsd, which
// does the same things to the same files.
const rights = kept | 1<<unix.CAP_SETGID | 1<<unix.CAP_SETUID | 1<<unix.CAP_SETFCAP

// enter makes the folder the process's root, and its own descriptors where it
// stands.
func enter(folder int) error {
	if err := os.Chdir("/proc/self/fd"); err != nil {
		return fmt.Errorf("go to the process's own descriptors: %w", err)
	}
	if err := unix.Chroot(fmt.Sprint(folder)); err != nil {
		return fmt.Errorf("make the folder the process's root: %w", err)
	}
	return nil
}

// confine takes from the process what it does not need: it sees the folder and
// nothing else. It stands in /proc/self/fd, by which it opens what it has a
// descriptor of.
func confine(folder int) error {
	if err := enter(folder); err != nil {
		return err
	}
	// Of each of its threads, which Go does only without C.
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{{Effective: rights, Permitted: rights}}
	for _, call := range [][4]uintptr{
		{unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1},
		{unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0]))},
	} {
		if _, _, errno := syscall.AllThreadsSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
			return fmt.Errorf("give up the process's rights: %w", errno)
		}
	}
	return nil
}
