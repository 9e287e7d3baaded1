// Package rootfs tests what a guest boots from: that the kernel build refuses a configuration that lacks an option,
// that the image comes out the same each time and holds nothing but what it is for, and that both boot.
//
// The tests of the image need root and a Debian mirror, the boot needs a kernel in out/guest and QEMU; where one is
// missing they are skipped with the reason. The kernel is never built here.
package rootfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestConfigCheck(t *testing.T) {
	const final = "CONFIG_A=y\nCONFIG_NAME=\"bpf\"\nCONFIG_AB=y\n# CONFIG_B is not set\n"
	for _, test := range []struct {
		name, fragment, complaint string
	}{
		{"all there", "# a comment\nCONFIG_A=y\nCONFIG_NAME=\"bpf\"\n# CONFIG_B is not set\n", ""},
		{"off and without a prompt", "# CONFIG_C is not set\n", ""},
		{"missing", "CONFIG_A=y\nCONFIG_C=y\n", "asked for, but not in the configuration: CONFIG_C=y"},
		{"off instead of on", "CONFIG_B=y\n", "asked for, but not in the configuration: CONFIG_B=y"},
		{"another value", "CONFIG_NAME=\"yama\"\n", "asked for, but not in the configuration: CONFIG_NAME=\"yama\""},
		{"on instead of off", "# CONFIG_A is not set\n", "asked for off, but on: CONFIG_A=y"},
		{"the beginning of another", "CONFIG_A=\n", "asked for, but not in the configuration: CONFIG_A="},
		{"every line is named", "CONFIG_D=y\nCONFIG_C=y\n", "CONFIG_D=y\nbuild-kernel: asked for, but not in the configuration: CONFIG_C=y"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			fragment, config := filepath.Join(dir, "fragment"), filepath.Join(dir, "config")
			write(t, fragment, test.fragment)
			write(t, config, final)
			cmd := exec.Command("./build-kernel", "--check-config", config)
			cmd.Env = append(os.Environ(), "NANOCLAW_KERNEL_CONFIG="+fragment)
			out, err := cmd.CombinedOutput()
			if refused := err != nil; refused != (test.complaint != "") {
				t.Errorf("refused: %v, want %v; output: %s", refused, test.complaint != "", out)
			}
			if !strings.Contains(string(out), test.complaint) {
				t.Errorf("output %q lacks %q", out, test.complaint)
			}
		})
	}
}

func TestImageIsReproducible(t *testing.T) {
	needDebian(t)
	agent := probe(t)
	first := filepath.Join(t.TempDir(), "guest.img")
	run(t, ".", "./build-image", agent, first)

	// A second build of the same commit elsewhere, with the agent under another name and with another time.
	elsewhere := t.TempDir()
	run(t, "..", "cp", "-r", "rootfs", "scripts", elsewhere)
	other := filepath.Join(elsewhere, "agent-of-another-build")
	run(t, ".", "cp", agent, other)
	if err := os.Chtimes(other, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	second := filepath.Join(elsewhere, "out", "guest.img")
	run(t, filepath.Join(elsewhere, "rootfs"), "./build-image", other, second)

	if a, b := digest(t, first), digest(t, second); a != b {
		t.Errorf("two builds differ: %s and %s", a, b)
	}
}

func TestDynamicAgentIsRefused(t *testing.T) {
	needDebian(t)
	out, err := exec.Command("./build-image", "/bin/bash", filepath.Join(t.TempDir(), "guest.img")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "linked dynamically") {
		t.Errorf("err %v, output %q", err, out)
	}
}

// TestGuestBoots boots the kernel in out/guest with an image of its own under emulation, as it needs no KVM.
func TestGuestBoots(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a guest under emulation; not with -short")
	}
	kernel := "../out/guest/vmlinux"
	if _, err := os.Stat(kernel); err != nil {
		t.Skip("there is no kernel; make guest builds it: ", err)
	}
	needDebian(t)
	qemu := findQEMU(t)
	image := filepath.Join(t.TempDir(), "guest.img")
	run(t, ".", "./build-image", probe(t), image)

	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cmd := qemu(ctx,
		"-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "256", "-nodefaults", "-no-user-config", "-no-reboot",
		"-display", "none", "-kernel", kernel,
		"-append", "console=hvc0 quiet panic=-1 root=/dev/vda ro rootfstype=erofs",
		"-drive", "if=none,id=root,format=raw,readonly=on,file="+image, "-device", "virtio-blk-pci,drive=root",
		"-device", "virtio-serial-pci", "-chardev", "stdio,id=console", "-device", "virtconsole,chardev=console")
	console, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v; console:\n%s", err, console)
	}
	t.Logf("console:\n%s", console)
	said := strings.ReplaceAll(string(console), "\r\n", "\n")
	for _, want := range []string{
		`pid: 1`,
		`release: 6\.12\.[0-9]+-nanoclaw`,
		`lsm: .*\blandlock,yama,bpf\b.*`,
		`controllers: cpuset cpu io memory pids`,
		`btf: true`,
		`read-only: true`,
		`tree: bin/crun lib/x86_64-linux-gnu/[^ ]+\.so[^ ]*( lib/x86_64-linux-gnu/[^ ]+\.so[^ ]*)* lib64/ld-linux-x86-64\.so\.2 sbin/init sbin/nanoclaw-agent`,
		`crun: crun version [0-9.]+ <nil>`,
	} {
		if !regexp.MustCompile(`(?m)^` + want + `$`).MatchString(said) {
			t.Errorf("the guest did not say %q", want)
		}
	}
}

// findQEMU returns how to run the QEMU of the test engine's root: with its own libraries, without entering the root.
func findQEMU(t *testing.T) func(context.Context, ...string) *exec.Cmd {
	t.Helper()
	out, err := exec.Command("../test/engine/build-root").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		t.Skip("no QEMU, since the engine's root cannot be made: ", err)
	}
	root := strings.TrimSpace(string(out))
	libraries := root + "/usr/lib/x86_64-linux-gnu"
	return func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, root+"/usr/lib64/ld-linux-x86-64.so.2", append([]string{
			"--library-path", libraries, root + "/usr/bin/qemu-system-x86_64",
			"-L", root + "/usr/share/qemu", "-L", root + "/usr/share/seabios",
		}, args...)...)
		cmd.Env = append(os.Environ(), "QEMU_MODULE_DIR="+libraries+"/qemu")
		return cmd
	}
}

// needDebian skips a test that fetches packages.
func needDebian(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("fetches Debian packages; not with -short")
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip("needs apt-get: ", err)
	}
	if os.Getuid() != 0 {
		t.Skip("needs root, for the cache of packages")
	}
}

// probe builds the stand-in for the agent.
func probe(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "probe")
	cmd := exec.Command("go", "build", "-trimpath", "-o", bin, "./testdata/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return bin
}

func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, bytes.TrimSpace(out))
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func digest(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(content))
}
