package network

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func pathOf(ns *Namespace) string {
	return "/proc/self/fd/" + strconv.Itoa(ns.Fd())
}

func TestOpenNamespace(t *testing.T) {
	requireRoot(t)
	ns := newNamespace(t)
	again, err := OpenNamespace(pathOf(ns))
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}

	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		path string
		want error
	}{
		{"/proc/self/ns/net", ErrHostNamespace},
		{"/proc/1/ns/net", hostError(t)},
		{"/proc/self/ns/mnt", nil},
		{filepath.Join(dir, "missing"), os.ErrNotExist},
		{file, nil},
		{fifo, nil},
		{dir, nil},
	} {
		ns, err := OpenNamespace(tc.path)
		if err == nil {
			t.Errorf("%s was taken", tc.path)
			_ = ns.Close()
			continue
		}
		if tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.path, err, tc.want)
		}
		if !strings.Contains(err.Error(), tc.path) {
			t.Errorf("%v does not name %s", err, tc.path)
		}
	}
}

// hostError is what asking for PID 1's namespace ends with: nested in a
// container, it cannot even be opened.
func hostError(t *testing.T) error {
	t.Helper()
	_, err := Identify("/proc/1/ns/net")
	if err != nil {
		return os.ErrPermission
	}
	return ErrHostNamespace
}

func TestOccupiedNamespace(t *testing.T) {
	requireRoot(t)
	ns := newNamespace(t)
	cmd := exec.Command("sleep", "60")
	if err := ns.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	_, err := OpenNamespace(pathOf(ns))
	if !errors.Is(err, ErrOccupied) || !strings.Contains(err.Error(), strconv.Itoa(cmd.Process.Pid)) {
		t.Errorf("got %v", err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	free, err := OpenNamespace(pathOf(ns))
	if err != nil {
		t.Fatal(err)
	}
	_ = free.Close()
}

// TestThreadsComeHome is about the process's main thread too, which Go cannot
// end.
func TestThreadsComeHome(t *testing.T) {
	requireRoot(t)
	ns := newNamespace(t)
	var inside Identity
	if err := ns.Do(func() (err error) {
		inside, err = Identify("/proc/thread-self/ns/net")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if inside == startedIn {
		t.Fatal("Do ran in the host's namespace")
	}
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			err := ns.Do(func() error {
				now, err := Identify("/proc/thread-self/ns/net")
				if err == nil && now != inside {
					err = errors.New("Do ran elsewhere")
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	failed := errors.New("failed")
	if err := ns.Do(func() error { return failed }); !errors.Is(err, failed) {
		t.Errorf("got %v", err)
	}
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(tasks) == 0 {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if id, err := Identify(task); err == nil && id != startedIn {
			t.Errorf("%s is in another namespace", task)
		}
	}
}

func TestEnter(t *testing.T) {
	requireRoot(t)
	ns := newNamespace(t)
	err := onThread(func() error {
		leave, err := ns.Enter()
		if err != nil {
			return err
		}
		if id, err := Identify("/proc/thread-self/ns/net"); err != nil || id == startedIn {
			t.Errorf("Enter did not (%v)", err)
		}
		if err := leave(); err != nil {
			return err
		}
		if id, err := Identify("/proc/thread-self/ns/net"); err != nil || id != startedIn {
			t.Errorf("leave did not (%v)", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestNamespaceEnds looks whether nothing keeps a namespace that was closed:
// the other end of a veth goes with it.
func TestNamespaceEnds(t *testing.T) {
	requireRoot(t)
	here := newNamespace(t)
	there, err := NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	err = here.Do(func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v0"}, PeerName: "v1"}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		peer, err := netlink.LinkByName("v1")
		if err != nil {
			return err
		}
		return netlink.LinkSetNsFd(peer, there.Fd())
	})
	if err != nil {
		t.Fatal(err)
	}
	n := New(there, nil)
	if _, err := n.NewNIC(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(n.Close(), there.Close()); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		err := here.Do(func() error {
			_, err := netlink.LinkByName("v0")
			return err
		})
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return
		}
	}
	t.Error("the namespace is still there")
}

func TestDisableIPv6(t *testing.T) {
	requireRoot(t)
	for of, want := range map[string]bool{"all": false, "lo": false, "default": true} {
		ns := newNamespace(t)
		if !hasIPv6(t, ns) {
			t.Skip("this kernel has no IPv6")
		}
		if err := ns.DisableIPv6(of); err != nil {
			t.Fatal(err)
		}
		if got := hasIPv6(t, ns); got != want {
			t.Errorf("with IPv6 off for %s, loopback has it: %v", of, got)
		}
	}
}

// hasIPv6 is how an engine finds out whether a namespace has IPv6.
func hasIPv6(t *testing.T, ns *Namespace) bool {
	t.Helper()
	has := false
	err := ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		list, err := netlink.AddrList(lo, netlink.FAMILY_V6)
		has = len(list) > 0
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return has
}
