// Package inguest lets tests run inside a VM of our own kernel: the test binary
// is the whole of the guest's user space, as PID 1, and its results come back
// as results of the test that booted it.
//
// It is for what depends on the guest's kernel and on nothing else of the
// project. There is no agent, no container and no share in that VM.
package inguest

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// variable tells the test binary, through the kernel's command line, that it is
// the guest.
const variable = "nanoclaw_inguest"

// Inside reports whether this process runs in the VM.
func Inside() bool { return os.Getenv(variable) != "" }

// Main is the body of a TestMain. In the VM it mounts what a system needs, runs
// the tests that the host asked for, and turns the VM off.
func Main(m *testing.M) {
	if os.Getpid() != 1 || !Inside() {
		os.Exit(m.Run())
	}
	code := 1
	if err := prepare(); err != nil {
		fmt.Println("prepare the guest:", err)
	} else {
		code = m.Run()
	}
	fmt.Printf("\ninguest: exit %d\n", code)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func prepare() error {
	for _, m := range []struct{ kind, at, data string }{
		{"devtmpfs", "/dev", ""}, {"proc", "/proc", ""}, {"sysfs", "/sys", ""}, {"tmpfs", "/run", ""}, {"tmpfs", "/tmp", ""},
		{"cgroup2", "/sys/fs/cgroup", "nsdelegate"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	for fd, name := range []string{"/dev/null", "/dev/console", "/dev/console"} {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		if err := unix.Dup3(int(f.Fd()), fd, 0); err != nil {
			return err
		}
	}
	return nil
}

// result is a line of go test's that tells of one test.
var result = regexp.MustCompile(`^( *)--- (PASS|FAIL|SKIP): (\S+)`)

// Options are what a VM has besides the test binary.
type Options struct {
	// Files are further files of the guest's root, and where they come from.
	Files map[string]string
	// Variables of the tests' environment in the guest, as NAME=VALUE.
	Variables []string
	// Machine are further arguments of QEMU's.
	Machine []string
}

// Run boots a VM that runs the tests which match pattern, and reports each of
// them as a part of t. It skips where no VM can be.
func Run(t *testing.T, pattern string, o Options) {
	t.Helper()
	kernel, qemu, self := needs(t)
	archive := filepath.Join(t.TempDir(), "initramfs")
	content := map[string]string{"init": self}
	for name, from := range o.Files {
		content[name] = from
	}
	if err := writeArchive(archive, content); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	accel := "tcg,thread=single"
	if os.Getenv("NANOCLAW_TEST_ACCEL") == "kvm" {
		accel = "kvm"
	}
	arguments := []string{
		"-M", "q35", "-accel", accel, "-cpu", "max,erms=off,fsrm=off", "-m", "512", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-kernel", kernel, "-initrd", archive,
		"-append", "console=hvc0 quiet panic=-1 " + variable + "=1 " + strings.Join(o.Variables, " ") + " -- -test.v -test.timeout=19m -test.run=" + pattern,
		"-device", "virtio-serial-pci", "-chardev", "stdio,id=console", "-device", "virtconsole,chardev=console",
	}
	cmd := exec.CommandContext(ctx, qemu, append(arguments, o.Machine...)...)
	console, err := cmd.CombinedOutput()
	report(t, console)
	if err != nil || !bytes.Contains(console, []byte("inguest: exit 0")) {
		t.Errorf("the guest's tests did not pass: %v", err)
	}
	if t.Failed() || testing.Verbose() {
		t.Logf("the guest's console:\n%s", console)
	}
}

func report(t *testing.T, console []byte) {
	for s := bufio.NewScanner(bytes.NewReader(console)); s.Scan(); {
		m := result.FindStringSubmatch(strings.TrimRight(s.Text(), "\r"))
		if m == nil {
			continue
		}
		t.Run(m[3], func(t *testing.T) {
			switch m[2] {
			case "FAIL":
				t.Error("failed in the guest")
			case "SKIP":
				t.Skip("skipped in the guest")
			}
		})
	}
}

func needs(t *testing.T) (kernel, qemu, self string) {
	t.Helper()
	guest := os.Getenv("NANOCLAW_GUEST")
	if guest == "" {
		t.Skip("NANOCLAW_GUEST does not name the folder of a built guest")
	}
	kernel = filepath.Join(guest, "vmlinux")
	if _, err := os.Stat(kernel); err != nil {
		t.Skip("no guest kernel: ", err)
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip(err)
	}
	if self, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if f.Section(".interp") != nil {
		t.Skip("the test binary is the guest's init too and must be static: build it with CGO_ENABLED=0")
	}
	return kernel, qemu, self
}
