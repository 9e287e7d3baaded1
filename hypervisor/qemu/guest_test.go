package qemu

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The guest of the tests: this very test binary as PID 1. It says "GUEST READY"
// on the console, dials the host, and does what the host's lines say. Each
// command is answered with one line, unless it ends the guest.
const (
	hostPort  = 1024 // the host listens
	guestPort = 1025 // the guest listens, and echoes
	readyLine = "GUEST READY"
)

func guestMain() {
	if err := guest(); err != nil {
		fmt.Println("GUEST FAILED:", err)
	}
	// PID 1 ends here only on an error; the kernel then panics.
	os.Exit(1)
}

func guest() error {
	for _, m := range [][2]string{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := syscall.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	con, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	os.Stdout = con
	listener, err := vsockListen(guestPort)
	if err != nil {
		return err
	}
	go vsockEcho(listener)
	fmt.Println(readyLine)
	host, err := vsockDial(hostPort)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(host)
	if _, err := fmt.Fprintln(host, "hello"); err != nil {
		return err
	}
	for lines.Scan() {
		if err := obey(lines.Text(), host); err != nil {
			return err
		}
	}
	return fmt.Errorf("the host went away: %w", lines.Err())
}

func obey(command string, host io.Writer) error {
	switch command {
	case "poweroff":
		return syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	case "reset":
		return syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
	case "panic":
		return fmt.Errorf("asked to panic")
	case "nics":
		return guestNICs(host)
	case "flood":
		line := strings.Repeat("x", 1023) + "\n"
		for range 4 * 1024 {
			fmt.Print(line)
		}
		fmt.Println("END OF FLOOD")
		_, err := fmt.Fprintln(host, "flooded")
		return err
	case "uptime":
		b, err := os.ReadFile("/proc/uptime")
		if err != nil {
			return err
		}
		_, err = host.Write(b)
		return err
	}
	return fmt.Errorf("unknown command %q", command)
}

// guestNICs prints the names and addresses of all interfaces but lo.
func guestNICs(host io.Writer) error {
	all, err := net.Interfaces()
	if err != nil {
		return err
	}
	var out []string
	for _, i := range all {
		if i.Name != "lo" {
			out = append(out, fmt.Sprintf("%s/%d", i.HardwareAddr, i.MTU))
		}
	}
	_, err = fmt.Fprintln(host, strings.Join(out, " "))
	return err
}

func vsockDial(port uint32) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: port}); err != nil {
		return nil, fmt.Errorf("dial the host: %w", err)
	}
	return os.NewFile(uintptr(fd), "vsock"), nil
}

func vsockListen(port uint32) (int, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}); err != nil {
		return 0, err
	}
	return fd, unix.Listen(fd, 8)
}

func vsockEcho(listener int) {
	for {
		fd, _, err := unix.Accept(listener)
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		go func() {
			f := os.NewFile(uintptr(fd), "vsock")
			_, _ = io.Copy(f, f)
			_ = f.Close()
		}()
	}
}
