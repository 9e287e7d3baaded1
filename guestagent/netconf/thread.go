package netconf

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// onThread runs f on a thread that ends with it, so that what f does to its
// thread's namespaces is nobody else's.
func onThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the runtime ends the thread with the goroutine.
		runtime.LockOSThread()
		result <- f()
	}()
	return <-result
}

// do runs f on a thread in the sandbox's namespace.
func (s *Sandbox) do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(s.insideNS), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the sandbox's network namespace: %w", err)
		}
		return f()
	})
}
