package choose

import (
	"context"
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
// with KVM inside an emulated machine, seven were seen.
const trialLimit = 15 * time.Second

// trialLimitPVM bounds it where a module is loaded whose KVM boots only kernels
// made for it. Those boot as fast as elsewhere, and others never.
const trialLimitPVM = 3 * time.Second

// trialMemory is the trial guest's memory in bytes.
const trialMemory = 128 << 20

// trial boots the guest without a share. The agent then has nothing to do and
// powers off, which proves processor, kernel, disk and agent in one. An error
// means that nothing was found out.
func (s host) trial(ctx context.Context, c Config, h hypervisor.Hypervisor) (problem string, err error) {
	dir, err := os.MkdirTemp(c.Dir, "trial-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()

	console := filepath.Join(dir, "console.log")
	limit, hint := trialLimit, ""
	if _, err := os.Stat(s.pvm); err == nil {
		limit, hint = trialLimitPVM, "; it is kvm_pvm's, which boots only kernels made for it"
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
		return "", ctx.Err()
	case err != nil:
		return "a trial guest did not start: " + err.Error(), nil
	}
	select {
	case <-vm.Done():
	case <-trying.Done():
		kill(vm)
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return fmt.Sprintf("%s opens, but a trial guest did not boot within %s%s", s.kvm, limit, hint), nil
	}
	e := vm.Exit()
	if e.Cause == hypervisor.CauseGuest {
		return "", nil
	}
	problem = fmt.Sprintf("%s opens, but the guest did not boot: %s", s.kvm, e.Cause)
	if e.Detail != "" {
		problem += ": " + e.Detail
	}
	problem += hint
	if tail := hypervisor.ConsoleTail(console); tail != "" {
		problem += "; the end of its console:\n" + tail
	}
	return problem, nil
}

func kill(vm hypervisor.VM) {
	vm.Kill()
	<-vm.Done()
}
