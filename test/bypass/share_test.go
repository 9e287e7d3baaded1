package bypass

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/internal/program"
	"github.com/nanoclaw/nanoclaw/shim/share"
	"github.com/nanoclaw/nanoclaw/test/bypass/attempts"
	"github.com/nanoclaw/nanoclaw/test/inguest"
)

// controls says in the VM whether the share that it has holds to its rules.
const controls = "nanoclaw_bypass_controls"

// TestShareInVM boots a VM with a share that is held to rules about mounts, and
// one with the same that is not. What is tried there is tried in the VM's
// initial namespaces.
func TestShareInVM(t *testing.T) {
	if inguest.Inside() {
		t.Skip("this is the VM")
	}
	if os.Getenv("NANOCLAW_GUEST") == "" {
		t.Skip("NANOCLAW_GUEST does not name the folder of a built guest")
	}
	for _, on := range []string{"on", "off"} {
		t.Run(on, func(t *testing.T) {
			socket := serve(t, on == "on")
			inguest.Run(t, "^TestGuestShare$", inguest.Options{
				Variables: []string{controls + "=" + on},
				Machine: []string{
					"-object", "memory-backend-memfd,id=ram,size=512M,share=on", "-machine", "memory-backend=ram",
					"-chardev", "socket,id=fs,path=" + socket, "-device", "vhost-user-fs-pci,chardev=fs,tag=" + attempts.ShareTag,
				},
			})
		})
	}
}

// serve composes and serves the share of the attempts.
func serve(t *testing.T, held bool) (socket string) {
	t.Helper()
	virtiofsd, err := program.Find("virtiofsd", "the PATH", program.Virtiofsd...)
	if err != nil {
		t.Skip(err)
	}
	// First, so that it goes last: the share holds what is mounted in it.
	outside := filepath.Join(t.TempDir(), "outside")
	s := newShare(t)
	if err := os.WriteFile(outside, []byte(attempts.Secret), 0o600); err != nil {
		t.Fatal(err)
	}
	hiding, readonly := t.TempDir(), t.TempDir()
	for _, dir := range []string{hiding, readonly} {
		if err := attempts.ShareWorld(dir, outside); err != nil {
			t.Fatal(err)
		}
	}
	nested := filepath.Join(readonly, attempts.ShareNested)
	if err := os.Mkdir(nested, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", nested, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(nested, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	given := map[string]string{}
	if held {
		given[annotations.KeyMountsHide] = strings.Join(attempts.ShareHidden, ",")
		given[annotations.KeyMountsReadonly] = "/ro"
	}
	spec := specOf(bind(hiding, attempts.ShareDestination), bind(readonly, "/ro"))
	policy, err := annotations.Compile(annotations.Input{ID: "c", Annotations: given, Spec: spec, Enforced: annotations.Everything})
	if err != nil {
		t.Fatal(err)
	}
	if err := add(t, s, "c", spec, policy); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(context.Background(), virtiofsd); err != nil {
		t.Fatal(err)
	}
	return s.Socket()
}

// TestGuestShare makes the attempts in the VM.
func TestGuestShare(t *testing.T) {
	on := os.Getenv(controls)
	if !inguest.Inside() || on == "" {
		t.Skip("TestShareInVM runs it")
	}
	if err := os.MkdirAll(attempts.ShareRoot, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(attempts.ShareTag, attempts.ShareRoot, "virtiofs", 0, ""); err != nil {
		t.Fatal(err)
	}
	for _, a := range attempts.All() {
		if a.Policy != attempts.Shared || a.Kernel && on == "off" {
			continue
		}
		t.Run(a.Name, func(t *testing.T) {
			for _, mount := range []string{"0", "1"} {
				if _, err := os.Stat(filepath.Join(attempts.ShareRoot, "c/mounts", mount, a.Name, "plain")); err != nil {
					t.Fatalf("the share is not there, so that nothing is proved: %v", err)
				}
			}
			err := a.Try()
			switch {
			case on == "on" && err == nil:
				t.Errorf("not held: %s", a.Property)
			case on == "on":
				t.Logf("stopped: %v", err)
			case err != nil:
				t.Errorf("it fails without the rule as well, and so proves nothing: %v", err)
			}
		})
	}
}

func newShare(t *testing.T) *share.Share {
	t.Helper()
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_GETPID, 0, 0, 0); errno != 0 {
		t.Skip("a program with C in it, as the race detector makes one, cannot give up its rights; CGO_ENABLED=0 can")
	}
	dir, err := os.MkdirTemp("/tmp", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	s, err := share.New(dir, func(c *exec.Cmd) error {
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		return c.Start()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func add(t *testing.T, s *share.Share, id string, spec *specs.Spec, policy *annotations.Policy) error {
	t.Helper()
	_, err := s.AddContainer(context.Background(), id, spec, policy, t.TempDir(), func(annotations.Mount, error, error) {})
	return err
}

func bind(source, destination string) specs.Mount {
	return specs.Mount{Type: "bind", Source: source, Destination: destination, Options: []string{"rbind"}}
}

func specOf(mounts ...specs.Mount) *specs.Spec {
	s := &specs.Spec{
		Root: &specs.Root{Path: "rootfs"}, Mounts: mounts, Process: &specs.Process{Cwd: "/"}, Linux: &specs.Linux{},
	}
	for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace, specs.NetworkNamespace} {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind})
	}
	return s
}
