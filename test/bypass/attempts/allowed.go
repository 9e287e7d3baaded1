package attempts

import (
	"os"

	"golang.org/x/sys/unix"
)

func init() {
	addAllowed(Any, map[string]func() error{
		"allowed-program":       func() error { return runs(Image) },
		"allowed-own-program":   func() error { return runOwn("/work/own") },
		"allowed-args":          func() error { return runs(Args, "pull", "pushed", "xpush") },
		"allowed-args-disorder": func() error { return runs(Args, Second, First) },
		"allowed-args-name":     func() error { return symlinked(Args, "/work/push", "pull") },
		"allowed-readonly-tool": func() error { return runs(Readonly, "read") },
		"allowed-read-self":     func() error { return runs(Readonly, "read-self") },
		"allowed-write":         func() error { return openFor(File, unix.O_WRONLY) },
		"allowed-trace-child":   func() error { return runs(Self, "trace-child") },
		"allowed-remove":        func() error { return os.Remove(Denied) },
	})
	addAllowed(FromImage, map[string]func() error{
		"allowed-image": func() error { return runs(Image) },
		"allowed-map":   func() error { return mapCode(Image, unix.PROT_READ|unix.PROT_EXEC) },
		"allowed-data":  func() error { return openFor(File, unix.O_RDWR) },
		"allowed-anonymous": func() error {
			_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
			return err
		},
	})
	addAllowed(Listed, map[string]func() error{
		"allowed-listed": func() error { return runs(Readonly) },
	})
	addAllowed(Audit, map[string]func() error{
		"would-deny":     func() error { return runs(Denied) },
		"would-args":     func() error { return runs(Args, Push) },
		"would-readonly": func() error { return runs(Readonly, "try-write", "write") },
		"would-copy":     func() error { return thenCopy("/work/copy") },
		"would-list":     func() error { return runs(Image) },
	})
	role("read", func([]string) error {
		if err := openFor(File, unix.O_RDONLY); err != nil {
			return err
		}
		return openFor("/dev/null", unix.O_WRONLY)
	})
	role("read-self", func([]string) error { return openFor("/proc/self/exe", unix.O_RDONLY) })
	role("trace-child", traceChild)
}

func traceChild([]string) error {
	p, err := os.StartProcess(Self, []string{Self, "sleep"}, &os.ProcAttr{Env: os.Environ()})
	if err != nil {
		return err
	}
	defer func() { _ = p.Kill(); _, _ = p.Wait() }()
	return openFor("/proc/"+itoa(p.Pid)+"/mem", unix.O_RDONLY)
}
