package attempts

import (
	"os"
	"os/exec"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() {
	tries := make(map[string]func() error)
	for name, use := range map[string]func() func(){
		"memory": eatMemory, "storage": eatStorage, "processes": eatProcesses, "descriptors": eatDescriptors,
	} {
		tries["exhaust-"+name] = func() error { return exhausting(use, func() error { return runs(Denied) }) }
	}
	tries["exhaust-records"] = exhaustRecords
	add(Any, "where there is nothing left of something, a denied program still does not run", tries)

	role("eat-memory", func([]string) error {
		for {
			_, err := unix.Mmap(-1, 0, 4<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
			if err != nil {
				time.Sleep(time.Millisecond)
			}
		}
	})
	role("flood", func([]string) error {
		name, err := unix.BytePtrFromString(Denied)
		if err != nil {
			return err
		}
		argv, err := syscall.SlicePtrFromStrings([]string{Denied})
		if err != nil {
			return err
		}
		var errno syscall.Errno
		for end := time.Now().Add(exhaustTime); time.Now().Before(end); {
			_, _, errno = unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(&argv[0])), 0)
		}
		return errno
	})
}

// exhaustTime is how long something is used up while the property is tried.
const exhaustTime = 1500 * time.Millisecond

// exhausting repeats try while use has used something up, and once more after it. Where there is not even enough to try,
// that is no proof; without the gate one of them gets through.
func exhausting(use func() (stop func()), try func() error) error {
	stop := use()
	err := errSilent
	for end := time.Now().Add(exhaustTime); time.Now().Before(end) && err != nil; {
		err = try()
	}
	stop()
	if err != nil {
		err = try()
	}
	return err
}

// eatMemory has processes take all memory of the VM, which the kernel then ends, and others in their place.
func eatMemory() (stop func()) {
	stopped, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			cmd := exec.Command(Self, "eat-memory")
			ended := make(chan struct{})
			if err := cmd.Start(); err != nil {
				close(ended)
			} else {
				// The kernel ends these, and not who tries.
				_ = os.WriteFile("/proc/"+itoa(cmd.Process.Pid)+"/oom_score_adj", []byte("1000"), 0)
				go func() { _ = cmd.Wait(); close(ended) }()
			}
			select {
			case <-ended:
			case <-stopped:
				if cmd.Process != nil {
					_ = cmd.Process.Kill()
					<-ended
				}
				return
			}
		}
	}()
	return func() { close(stopped); <-done }
}

// eatStorage fills the file system that the container's files are in.
func eatStorage() (stop func()) {
	name := "/work/full"
	f, err := os.Create(name)
	if err != nil {
		return func() {}
	}
	for b := make([]byte, 1<<20); err == nil; {
		_, err = f.Write(b)
	}
	return func() { _ = f.Close(); _ = os.Remove(name) }
}

// eatProcesses starts as many as the container may have, but for the few that a try takes.
func eatProcesses() (stop func()) {
	const sleeper, few = "/work/sleeper", 12
	if err := os.WriteFile(sleeper, sleeping(), 0o755); err != nil { //nolint:gosec // a program
		return func() {}
	}
	var all []*exec.Cmd
	for {
		cmd := exec.Command(sleeper)
		if err := cmd.Start(); err != nil {
			break
		}
		all = append(all, cmd)
	}
	end := func(n int) {
		for ; n > 0 && len(all) > 0; n-- {
			last := all[len(all)-1]
			all = all[:len(all)-1]
			_ = last.Process.Kill()
			_ = last.Wait()
		}
	}
	end(few)
	return func() { end(len(all)) }
}

// eatDescriptors opens as many as the process may have, but for what a child takes.
func eatDescriptors() (stop func()) {
	var all []int
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		all = append(all, fd)
	}
	free := func(n int) {
		for ; n > 0 && len(all) > 0; n-- {
			_ = unix.Close(all[len(all)-1])
			all = all[:len(all)-1]
		}
	}
	free(16)
	return func() { free(len(all)) }
}

// exhaustRecords has more refusals made than there is room for, by several at once.
func exhaustRecords() error {
	results := make(chan error, 4)
	for range cap(results) {
		go func() { results <- runs(Self, "flood") }()
	}
	err := <-results
	for range cap(results) - 1 {
		if one := <-results; one == nil {
			err = nil
		}
	}
	if err != nil {
		err = runs(Denied)
	}
	return err
}
