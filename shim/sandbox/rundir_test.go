package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/hypervisor/hybridvsock"
	"github.com/nanoclaw/nanoclaw/shim/vmcgroup"
)

// maxSocketPath is what a sockaddr_un holds, its last zero not counted.
const maxSocketPath = 107

func TestRunDirectoryIsShortAndDistinct(t *testing.T) {
	base := "/" + strings.Repeat("b", 39) // the longest that a configuration may name
	seen := map[rundir]bool{}
	for _, name := range [][2]string{
		{"moby", strings.Repeat("f", 64)}, {"moby", strings.Repeat("f", 63) + "e"},
		{"k8s.io", strings.Repeat("f", 64)}, {strings.Repeat("n", 76), strings.Repeat("i", 76)}, {"", ""},
	} {
		d := newRundir(base, name[0], name[1])
		if seen[d] {
			t.Errorf("%v has another's run directory", name)
		}
		seen[d] = true
		socket := hybridvsock.ListenerPath(hypervisor.VsockPath(string(d)), agent.ControlPort)
		if len(d) > 60 || len(socket) > maxSocketPath {
			t.Errorf("%s is too long", socket)
		}
	}
	if again := newRundir(base, "moby", strings.Repeat("f", 64)); !seen[again] {
		t.Error("a run directory cannot be found again")
	}
}

// Somebody has removed the record that says which cgroup it is.
func TestCgroupIsRemovedWithoutARecord(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("making a cgroup needs root")
	}
	path := fmt.Sprintf("/nanoclaw-test-norecord-%d", os.Getpid())
	if _, err := vmcgroup.New(path, 64<<20); err != nil {
		t.Skipf("no cgroup can be made here: %v", err)
	}
	t.Cleanup(func() { _ = vmcgroup.Destroy(path, killPatience) })
	d := newRundir(t.TempDir(), "moby", "c1")
	if err := d.make(Info{ID: "c1", Cgroup: path}); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(string(d)); err != nil {
		t.Fatal(err)
	}
	if err := d.destroyWith(path); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob("/sys/fs/cgroup/*" + path); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Stat("/sys/fs/cgroup" + path); err == nil {
		t.Error("the cgroup is left")
	}
}

func TestRunDirectoryIsPrivate(t *testing.T) {
	base := filepath.Join(t.TempDir(), "deep", "run")
	d := newRundir(base, "moby", "c1")
	if err := d.make(Info{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{base: 0o711, string(d): 0o700, d.record(): 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	if err := d.destroy(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(string(d)); !os.IsNotExist(err) {
		t.Fatalf("%s is left: %v", d, err)
	}
}

// What a killed predecessor left is removed, but nothing through its mounts.
func TestLeftoversAreRemoved(t *testing.T) {
	needRoot(t)
	d := newRundir(t.TempDir(), "moby", "c1")
	users := t.TempDir()
	precious := filepath.Join(users, "precious")
	inner := filepath.Join(string(d), "share", "c1", "data")
	for _, err := range []error{
		os.MkdirAll(inner, 0o700),
		os.WriteFile(precious, []byte("x"), 0o600),
		os.WriteFile(filepath.Join(string(d), "v.sock"), nil, 0o600),
		unix.Mount(users, inner, "", unix.MS_BIND, ""),
		// One over the other.
		unix.Mount("tmpfs", inner, "tmpfs", 0, ""),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := d.make(Info{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Fatalf("a user's file is gone: %v", err)
	}
	left, err := os.ReadDir(string(d))
	if err != nil || len(left) != 1 || left[0].Name() != "vm.json" {
		t.Fatalf("%v, %v are in the new run directory", left, err)
	}
}

// A host whose run directory cannot be used says which, and leaves nothing.
func TestRunDirectoryFails(t *testing.T) {
	needRoot(t)
	for name, options := range map[string]string{"full": "nr_inodes=2", "no room for the record": "size=4k,nr_inodes=10", "read-only": "ro"} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			var flags uintptr
			if options == "ro" {
				options, flags = "", unix.MS_RDONLY
			}
			if err := unix.Mount("tmpfs", base, "tmpfs", flags, options); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unix.Unmount(base, unix.MNT_DETACH) }()
			filler := filepath.Join(base, "filler")
			if flags == 0 {
				// Uses up the last inode, or the last page.
				_ = os.WriteFile(filler, make([]byte, 4096), 0o600)
			}
			d := newRundir(base, "moby", "c1")
			err := d.make(Info{ID: "c1"})
			if err == nil || !strings.Contains(err.Error(), string(d)) {
				t.Fatalf("make = %v, which does not name %s", err, d)
			}
			if _, err := os.Stat(string(d)); !os.IsNotExist(err) {
				t.Fatalf("%s is left: %v", d, err)
			}
		})
	}
}

func TestRunDirectoryBelowAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := newRundir(file, "moby", "c1").make(Info{}); err == nil || !strings.Contains(err.Error(), file) {
		t.Fatalf("make = %v", err)
	}
}

// vmmInCgroup starts a process in a cgroup of its own, whose path it returns.
func vmmInCgroup(t *testing.T) (path string, ended chan struct{}) {
	t.Helper()
	path = fmt.Sprintf("/nanoclaw-sandbox-test-%d", os.Getpid())
	cg, err := vmcgroup.New(path, 64<<20)
	if err != nil {
		t.Skipf("no cgroup can be made here: %v", err)
	}
	t.Cleanup(func() { _ = vmcgroup.Destroy(path, killPatience) })
	vmm := exec.Command("sleep", "60")
	if err := vmm.Start(); err != nil {
		t.Fatal(err)
	}
	if err := cg.Join(vmm.Process.Pid); err != nil {
		t.Fatal(err)
	}
	ended = make(chan struct{})
	go func() {
		_ = vmm.Wait()
		close(ended)
	}()
	return path, ended
}

// Where somebody has removed the run directory, the bundle names the cgroup. That
// of a container that joined another one's network does not: the other one may
// live.
func TestDestroyWithoutTheRecord(t *testing.T) {
	needRoot(t)
	path, ended := vmmInCgroup(t)
	base, bundle, joined := t.TempDir(), t.TempDir(), t.TempDir()
	if err := errors.Join(
		remember(bundle, baseFile, base), remember(bundle, cgroupFile, path), remember(joined, baseFile, base), remember(joined, ownerFile, "c1"),
	); err != nil {
		t.Fatal(err)
	}
	if left, err := Destroy(joined, "moby", "c2"); err != nil || left != nil {
		t.Errorf("Destroy of one that joined = %+v, %v", left, err)
	}
	select {
	case <-ended:
		t.Error("the virtual machine that it is in was ended")
	case <-time.After(100 * time.Millisecond):
	}
	if left, err := Destroy(bundle, "moby", "c1"); err != nil || left != nil {
		t.Errorf("Destroy = %+v, %v", left, err)
	}
	<-ended
	if _, err := vmcgroup.Usage(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its cgroup is left: %v", err)
	}
}

// "delete" ends what the record names, whatever the configuration says by now.
func TestDestroyKillsWhatIsLeft(t *testing.T) {
	needRoot(t)
	path, ended := vmmInCgroup(t)
	bundle, base := t.TempDir(), t.TempDir()
	if err := remember(bundle, baseFile, base); err != nil {
		t.Fatal(err)
	}
	d := newRundir(base, "moby", "c1")
	if err := os.Mkdir(string(d), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.record(), []byte(`{"id":"c1","cgroup":"`+path+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if left, err := Destroy(bundle, "moby", "c1"); err != nil || left == nil || left.ID != "c1" {
		t.Fatalf("Destroy = %+v, %v", left, err)
	}
	<-ended
	if entries, err := os.ReadDir(base); err != nil || len(entries) != 0 {
		t.Fatalf("%v, %v are left", entries, err)
	}
	// Again, and of a container that never came to have a sandbox.
	for _, b := range []string{bundle, t.TempDir()} {
		if left, err := Destroy(b, "moby", "c1"); err != nil || left != nil {
			t.Errorf("Destroy of nothing = %+v, %v", left, err)
		}
	}
}

// What cannot be understood is not removed: a VM may be behind it.
func TestDestroyOfABrokenRecord(t *testing.T) {
	bundle, base := t.TempDir(), t.TempDir()
	if err := remember(bundle, baseFile, base); err != nil {
		t.Fatal(err)
	}
	d := newRundir(base, "moby", "c1")
	for _, err := range []error{os.Mkdir(string(d), 0o700), os.WriteFile(d.record(), []byte("{"), 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Destroy(bundle, "moby", "c1"); err == nil || !strings.Contains(err.Error(), d.record()) {
		t.Fatalf("Destroy = %v", err)
	}
	if _, err := os.Stat(d.record()); err != nil {
		t.Fatal(err)
	}
}
