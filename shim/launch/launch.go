// Package launch starts the processes of a VM so that they cannot outlive the
// shim: from one operating-system thread that lives as long as the shim does,
// with a kill signal bound to that thread's death.
//
// The kernel sends a parent-death signal when the parent's *thread* ends, not
// its process, so starting from an ordinary goroutine would kill a VM whenever
// the Go runtime retires a thread. A killed shim ends all its threads, and so
// all its processes. It is not the only safeguard: "delete" kills what the
// VM's cgroup still holds.
package launch

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace to start a process in. Enter moves the
// calling thread there and returns the way back.
type Namespace interface {
	Enter() (leave func() error, err error)
}

// Joiner takes a started process into a cgroup.
type Joiner interface {
	Join(pid int) error
}

// Launcher starts processes from its own thread. It is never closed: its
// thread's end is the children's.
type Launcher struct {
	requests chan request
}

type request struct {
	cmd    *exec.Cmd
	ns     Namespace
	result chan error
}

// New starts the launcher's thread.
func New() *Launcher {
	l := &Launcher{requests: make(chan request)}
	go l.run()
	return l
}

func (l *Launcher) run() {
	// Never unlocked: see the package comment.
	runtime.LockOSThread()
	for r := range l.requests {
		r.result <- start(r.cmd, r.ns)
	}
}

func start(cmd *exec.Cmd, ns Namespace) (err error) {
	if ns != nil {
		leave, err := ns.Enter()
		if err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		defer func() {
			if e := leave(); e != nil {
				// The thread would start the next process in the wrong
				// namespace; there is no safe way on.
				panic(fmt.Sprintf("leave network namespace: %v", e))
			}
		}()
	}
	return cmd.Start()
}

// Start starts cmd within ns (nil: the shim's own namespace), lets it leave no
// core dump, and takes it into cg (nil: none). A process that could not be taken is killed and reaped.
func (l *Launcher) Start(cmd *exec.Cmd, ns Namespace, cg Joiner) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	// A terminal's or a group's signals are not for the VM.
	cmd.SysProcAttr.Setpgid = true

	r := request{cmd: cmd, ns: ns, result: make(chan error, 1)}
	l.requests <- r
	if err := <-r.result; err != nil {
		return err
	}
	// What it holds of the guest's memory, secrets among it, must not come to lie
	// on the host's disk. It has not had anything of the guest's yet.
	if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil); err != nil && !errors.Is(err, unix.ESRCH) {
		err = fmt.Errorf("forbid core dumps of %s: %w", cmd.Path, err)
		return errors.Join(err, cmd.Process.Kill(), ignoreExit(cmd.Wait()))
	}
	if cg == nil {
		return nil
	}
	if err := cg.Join(cmd.Process.Pid); err != nil {
		err = fmt.Errorf("move %s into its cgroup: %w", cmd.Path, err)
		return errors.Join(err, cmd.Process.Kill(), ignoreExit(cmd.Wait()))
	}
	return nil
}

// ignoreExit drops the error that says how a killed process ended.
func ignoreExit(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}
