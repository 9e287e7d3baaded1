package choose

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/nanoclaw/nanoclaw/hypervisor"
)

// trialLimit bounds a trial boot. With KVM on hardware it takes under a second;
// with KVM inside an emulated machine that others keep busy, 50 were seen.
const trialLimit = 60 * time.Second

// trialLimitPVM bounds it where a module is loaded whose KVM boots only kernels
// made for it. Those boot as fast as elsewhere, and others never.
const trialLimitPVM = 3 * time.Second

// trialMemory is the trial guest's memory in bytes.
const trialMemory = 128 << 20

// finding is what a trial found out.
type finding struct {
	// problem is empty where the guest booted.
	problem string
	// passing is set where it may be the hour's: a busy host is slow.
	passing bool
}

// trial boots the guest without a share. The agent then has nothing to do and
// powers off, which proves processor, kernel, disk and agent in one. An error
// means that nothing was found out.
func (s host) trial(ctx context.Context, c Config, h hypervisor.Hypervisor) (finding, error) {
	dir, err := os.MkdirTemp(c.Dir, "trial-")
	if err != nil {
		return finding{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()

	console := filepath.Join(dir, "console.log")
	limit, hint, late := s.limit, "", ": it boots nothing, or this host is very busy; nanoclaw doctor --again tries once more"
	_, err = os.Stat(s.pvm)
	pvm := err == nil
	if pvm {
		limit, hint = trialLimitPVM, "; it is kvm_pvm's, which boots only kernels made for it"
		late = hint
	}
	trying, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	// The guest may spin for ever, so it must not outlive us. The signal comes
	// with the end of the thread that started it, hence the lock.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	vm, err := h.Start(trying, hypervisor.Config{
		ID: "trial", Dir: dir, Kernel: c.Kernel, Image: c.Image,
		CPUs: 1, Memory: trialMemory, CID: 3, Console: console,
		StartProcess: func(cmd *exec.Cmd) error {
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			return cmd.Start()
		},
	})
	switch {
	case ctx.Err() != nil:
		if err == nil {
			kill(vm)
		}
		return finding{}, ctx.Err()
	case err != nil:
		slow := errors.Is(err, context.DeadlineExceeded) && !pvm
		return finding{"a trial guest did not start: " + err.Error(), slow}, nil
	}
	if !ends(trying, vm) && ctx.Err() == nil && hypervisor.ConsoleTail(console, hypervisor.ConsoleShown) != "" {
		// A guest that has said something does run, if slowly.
		longer, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		ends(longer, vm)
	}
	select {
	case <-vm.Done():
	default:
		kill(vm)
		if ctx.Err() != nil {
			return finding{}, ctx.Err()
		}
		return finding{fmt.Sprintf("%s opens, but a trial guest did not boot within %s%s%s", s.kvm, limit, late, lastLines(console)), !pvm}, nil
	}
	e := vm.Exit()
	if e.Cause == hypervisor.CauseGuest {
		return finding{}, nil
	}
	problem := fmt.Sprintf("%s opens, but the guest did not boot: %s", s.kvm, e.Cause)
	if e.Detail != "" {
		problem += ": " + e.Detail
	}
	return finding{problem: problem + hint + lastLines(console)}, nil
}

// lastLines is the end of a console, as it goes on a problem.
func lastLines(console string) string {
	if tail := hypervisor.ConsoleTail(console, hypervisor.ConsoleShown); tail != "" {
		return "; the end of its console:\n" + tail
	}
	return ""
}

// ends waits for a VM's end and reports whether it came before ctx's.
func ends(ctx context.Context, vm hypervisor.VM) bool {
	select {
	case <-vm.Done():
		return true
	case <-ctx.Done():
		return false
	}
}

func kill(vm hypervisor.VM) {
	vm.Kill()
	<-vm.Done()
}
