package vmtest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The guest of the tests: this very test binary as PID 1. It says "GUEST READY"
// on the console, dials the host, and does what the host's lines say. Each
// command is answered with one line, unless it ends the guest.
const (
	hostPort  = 1024 // the host listens
	guestPort = 1025 // the guest listens, and echoes
	readyLine = "GUEST READY"
	flood     = 256 << 10 // bytes, each few of which cost an exit of the virtual CPU
)

// guestMark is the word of the kernel's command line, and so of its init's
// environment, that tells this guest from a container whose tests are PID 1.
const guestMark = "nanoclaw_test_guest"

// tick is how often a running guest counts ticks. Its clock would not tell a
// pause: some hypervisors set it on after one.
const tick = 100 * time.Millisecond

var ticks atomic.Int64

// Guest is the first call of a test binary's TestMain. In the guest it does not
// return.
func Guest() {
	if os.Getpid() != 1 || os.Getenv(guestMark) == "" {
		return
	}
	fmt.Println("GUEST FAILED:", guest())
	// The kernel panics when PID 1 ends.
	os.Exit(1)
}

// guest serves the host. It ends only with an error.
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
	go func() {
		for range time.Tick(tick) {
			ticks.Add(1)
		}
	}()
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
		if err := obey(strings.Fields(lines.Text()), host); err != nil {
			return err
		}
	}
	return fmt.Errorf("the host went away: %w", lines.Err())
}

// obey carries a command out. An error ends the guest.
func obey(command []string, host io.Writer) error {
	var answer string
	var err error
	switch command[0] {
	case "poweroff":
		return syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	case "reset":
		return syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
	case "panic":
		return fmt.Errorf("asked to panic")
	case "cpus":
		answer = strconv.Itoa(runtime.NumCPU())
	case "nics":
		answer, err = guestNICs()
	case "net":
		answer, err = guestNet(command[1], command[2])
	case "share":
		answer, err = guestShare(command[1])
	case "flood":
		line := strings.Repeat("x", 1023) + "\n"
		for range flood / len(line) {
			fmt.Print(line)
		}
		fmt.Println("END OF FLOOD")
		answer = "flooded"
	case "memory":
		answer, err = guestMemory()
	case "online":
		answer, err = guestOnline()
	case "ticks":
		answer = strconv.FormatInt(ticks.Load(), 10)
	default:
		err = fmt.Errorf("unknown command %q", command)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(host, answer)
	return err
}

// guestMemory returns how much memory there is, in KiB.
func guestMemory() (string, error) {
	all, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(all)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemTotal:" {
			return f[1], nil
		}
	}
	return "", errors.New("no MemTotal in /proc/meminfo")
}

// guestOnline brings all CPUs online, and returns their number. The first has no
// switch.
func guestOnline() (string, error) {
	all, err := filepath.Glob("/sys/devices/system/cpu/cpu[1-9]*/online")
	if err != nil {
		return "", err
	}
	for _, file := range all {
		if err := os.WriteFile(file, []byte("1"), 0); err != nil {
			return "", err
		}
	}
	return strconv.Itoa(len(all) + 1), nil
}

// guestNet gives the first NIC an address and sends a greeting over TCP.
func guestNet(address, to string) (string, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return "", err
	}
	for _, l := range all {
		if l.Type() != "device" || l.Attrs().Flags&net.FlagLoopback != 0 {
			continue
		}
		addr, err := netlink.ParseAddr(address)
		if err != nil {
			return "", err
		}
		if err := errors.Join(netlink.AddrAdd(l, addr), netlink.LinkSetUp(l)); err != nil {
			return "", err
		}
		conn, err := net.DialTimeout("tcp", to, patience)
		if err != nil {
			return "", err
		}
		defer func() { _ = conn.Close() }()
		_, err = fmt.Fprintln(conn, "over the tap")
		return "sent", err
	}
	return "", errors.New("no NIC")
}

// guestShare mounts the share, copies a file in it, and answers with it.
func guestShare(tag string) (string, error) {
	if err := syscall.Mount(tag, "/mnt", "virtiofs", 0, ""); err != nil {
		return "", fmt.Errorf("mount the share: %w", err)
	}
	b, err := os.ReadFile("/mnt/from-host")
	if err != nil {
		return "", err
	}
	return string(b), os.WriteFile("/mnt/from-guest", b, 0o600)
}

// guestNICs returns addresses and MTUs of all interfaces but lo.
func guestNICs() (string, error) {
	all, err := net.Interfaces()
	if err != nil {
		return "", err
	}
	var out []string
	for _, i := range all {
		if i.Name != "lo" {
			out = append(out, fmt.Sprintf("%s/%d", i.HardwareAddr, i.MTU))
		}
	}
	return strings.Join(out, " "), nil
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
