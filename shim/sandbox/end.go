package sandbox

import "github.com/nanoclaw/nanoclaw/hypervisor"

// End is what ended a sandbox.
type End string

// The ends. All but EndStopped are none of the host's doing.
const (
	// EndStopped means that the shim ended the VM.
	EndStopped End = "stopped"
	// EndVMM means that the hypervisor's process died.
	EndVMM End = "vmm-died"
	// EndShare means that virtiofsd died.
	EndShare End = "virtiofsd-died"
	// EndAgent means that the agent's connection ended, and the VM did not.
	EndAgent End = "agent-died"
	// EndPanic means that the guest's kernel panicked, as it does when the agent,
	// which is its init, dies.
	EndPanic End = "guest-panicked"
	// EndGuest means that the guest powered itself off or asked for a reset.
	EndGuest End = "guest-powered-off"
)

// End says what ended the sandbox. It is valid after Done.
func (s *Sandbox) End() End {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != "" {
		return s.ended
	}
	switch s.vm.Exit().Cause {
	case hypervisor.CausePanic:
		return EndPanic
	case hypervisor.CauseGuest, hypervisor.CauseReset:
		return EndGuest
	case hypervisor.CauseStopped:
		return EndStopped
	}
	return EndVMM
}
