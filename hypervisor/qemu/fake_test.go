package qemu

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// fakePrefix begins the names under which this binary is a fake; what follows
// is how it behaves.
const fakePrefix = "fake-"

// fake is the main of a fake QEMU ("qemu-…") or vsock device ("vsock-…").
func fake(behaviour string) int {
	switch behaviour {
	case "vsock-good", "vsock-dies":
		return fakeVsock(behaviour)
	case "vsock-fails":
		fmt.Fprintln(os.Stderr, "no room for a socket")
		return 1
	case "vsock-mute":
		time.Sleep(time.Minute)
		return 1
	case "qemu-fails":
		fmt.Fprintln(os.Stderr, strings.Repeat("noise ", 2000)+"Could not access KVM kernel module")
		return 1
	case "qemu-mute":
		time.Sleep(time.Minute)
		return 1
	}
	return fakeQEMU(behaviour)
}

// fakeVsock listens where it is told to.
func fakeVsock(behaviour string) int {
	for _, arg := range os.Args[1:] {
		for _, option := range []string{"--uds-path=", "--socket="} {
			path, ok := strings.CutPrefix(arg, option)
			if !ok {
				continue
			}
			l, err := net.Listen("unix", path)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			defer func() { _ = l.Close() }()
		}
	}
	if behaviour == "vsock-dies" {
		time.Sleep(300 * time.Millisecond)
		fmt.Fprintln(os.Stderr, "out of queues")
		return 3
	}
	time.Sleep(time.Minute)
	return 0
}

// fakeQEMU speaks QMP on the descriptor it was given. It answers everything,
// and does what its behaviour says once it has been asked to "cont".
func fakeQEMU(behaviour string) int {
	fd := 0
	for _, arg := range os.Args {
		if s, ok := strings.CutPrefix(arg, "socket,id=qmp,fd="); ok {
			fd, _ = strconv.Atoi(s)
		}
	}
	socket := os.NewFile(uintptr(fd), "qmp")
	lines := bufio.NewScanner(socket)
	// say sends one message. Whoever does not listen any more is not waited for.
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(socket, format+"\n", args...) }
	say(`{"QMP":{}}`)
	for lines.Scan() {
		var r struct {
			Execute string
			ID      uint64
		}
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return 1
		}
		if r.Execute == "quit" && behaviour == "qemu-wedged" {
			continue
		}
		say(`{"return":{},"id":%d}`, r.ID)
		switch r.Execute {
		case "quit":
			say(`{"event":"SHUTDOWN","data":{"guest":false,"reason":"host-qmp-quit"}}`)
			return 0
		case "cont":
			if code, over := misbehave(behaviour, say); over {
				return code
			}
		}
	}
	return 1
}

func misbehave(behaviour string, say func(string, ...any)) (code int, over bool) {
	event := func(reason string) {
		say(`{"event":"SHUTDOWN","data":{"guest":true,"reason":%q}}`, reason)
	}
	switch behaviour {
	case "qemu-poweroff":
		event("guest-shutdown")
	case "qemu-reset":
		event("guest-reset")
	case "qemu-panic":
		say(`{"event":"GUEST_PANICKED","data":{"action":"shutdown"}}`)
		event("guest-panic")
	case "qemu-unasked":
		return 0, true
	case "qemu-crash":
		fmt.Fprintln(os.Stderr, "qemu: assertion failed")
		return 134, true
	case "qemu-lingers":
		event("guest-shutdown")
		time.Sleep(time.Minute)
	case "qemu-garbage":
		say("pwned")
		time.Sleep(time.Minute)
	default:
		return 0, false
	}
	return 0, true
}

// fakeBinary returns this binary under a fake's name.
func fakeBinary(t *testing.T, behaviour string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), fakePrefix+behaviour)
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	return path
}
