package share

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/annotations"
)

// hiding is a bench where names can be hidden; ids are the processes that it
// starts.
func hiding(t *testing.T) (b *bench, ids *[]int) {
	t.Helper()
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_GETPID, 0, 0, 0); errno != 0 {
		t.Skip("a program with C in it, as the race detector makes one, cannot give up its rights; CGO_ENABLED=0 can")
	}
	b = newBench(t)
	ids = new([]int)
	b.start = func(c *exec.Cmd) error {
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		err := c.Start()
		if err == nil {
			*ids = append(*ids, c.Process.Pid)
		}
		return err
	}
	return b, ids
}

func TestHiddenNames(t *testing.T) {
	b, ids := hiding(t)
	dir := b.mkdir("dir", "sub")
	dir = filepath.Dir(dir)
	b.file("dir/.env", "key")
	b.file("dir/sub/secret", "key")
	b.file("dir/plain", "")
	other := b.mkdir("other")
	out := b.mustAdd(spec(bind(dir, "/w"), bind(dir, "/again", "ro"), bind(other, "/other")), annotations.KeyMountsHide, "/w/.env,/w/**/secret,/again/.env")
	first, second := out.Mounts[0].Source, out.Mounts[1].Source
	exists := func(source, name string) bool {
		_, err := os.Lstat(b.path(source, name))
		if err != nil && !os.IsNotExist(err) {
			t.Errorf("%s: %v", name, err)
		}
		return err == nil
	}
	for name, want := range map[string][2]bool{"plain": {true, true}, ".env": {}, "sub/secret": {false, true}} {
		if got := [2]bool{exists(first, name), exists(second, name)}; got != want {
			t.Errorf("%s is seen in the two mounts: %v, want %v", name, got, want)
		}
	}
	b.must(os.WriteFile(b.path(first, "new"), nil, 0o644))
	if err := os.WriteFile(b.path(second, "new"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("written to a read-only mount: %v", err)
	}
	if err := unix.Mount("", b.path(second, ""), "", unix.MS_REMOUNT|unix.MS_BIND, ""); err != nil {
		t.Error(err)
	}
	// Writable again by root on the host, the folder behind it is not.
	if err := os.WriteFile(b.path(second, "new"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("written through a remounted mount: %v", err)
	}
	// A mount without a rule below it costs nothing.
	if len(*ids) != 2 {
		t.Errorf("%d processes for two mounts with hidden names", len(*ids))
	}
	// Neither can be executed from, on the host.
	var st unix.Statfs_t
	b.must(unix.Statfs(b.path(first, ""), &st))
	if want := int64(unix.ST_NODEV | unix.ST_NOSUID | unix.ST_NOEXEC); st.Flags&want != want {
		t.Errorf("flags %x", st.Flags)
	}
	b.must(b.share.RemoveContainer(testID))
	for _, id := range *ids {
		if err := unix.Kill(id, 0); !errors.Is(err, unix.ESRCH) {
			t.Errorf("process %d is left: %v", id, err)
		}
	}
}

// TestTheHidingProcessIsConfined reads from /proc what it really has.
func TestTheHidingProcessIsConfined(t *testing.T) {
	b, ids := hiding(t)
	b.mustAdd(spec(bind(b.mkdir("dir"), "/w")), annotations.KeyMountsHide, "/w/.env")
	proc := fmt.Sprintf("/proc/%d", (*ids)[0])
	tasks, err := os.ReadDir(proc + "/task")
	b.must(err)
	for _, task := range tasks {
		status, err := os.ReadFile(filepath.Join(proc, "task", task.Name(), "status"))
		b.must(err)
		for _, line := range strings.Split(string(status), "\n") {
			key, value, _ := strings.Cut(line, ":")
			value = strings.TrimSpace(value)
			switch key {
			case "CapEff", "CapPrm":
				caps, err := strconv.ParseUint(value, 16, 64)
				b.must(err)
				// Those of virtiofsd.
				if want := uint64(1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID | 1<<unix.CAP_SETGID |
					1<<unix.CAP_SETUID | 1<<unix.CAP_MKNOD | 1<<unix.CAP_SETFCAP); caps != want {
					t.Errorf("%s of thread %s is %s", key, task.Name(), value)
				}
			case "NoNewPrivs":
				if value != "1" {
					t.Errorf("thread %s may get new rights", task.Name())
				}
			case "Name":
				if value != "nanoclaw-hide" && task.Name() == strconv.Itoa((*ids)[0]) {
					t.Errorf("it is called %q", value)
				}
			}
		}
	}
	// Its root is the folder: nothing else of the host is there for it.
	var root, folder unix.Stat_t
	b.must(unix.Stat(proc+"/root", &root))
	b.must(unix.Stat(filepath.Join(b.work, "dir"), &folder))
	if root.Ino != folder.Ino || root.Dev != folder.Dev {
		t.Error("its root is not the folder")
	}
}

// What cannot be judged any more is not seen any more, and the VM is ended.
func TestDeathOfTheHidingProcess(t *testing.T) {
	b, ids := hiding(t)
	out := b.mustAdd(spec(bind(b.mkdir("dir"), "/w")), annotations.KeyMountsHide, "/w/.env")
	b.file("dir/.env", "key")
	b.must(b.share.Serve(context.Background(), fakeDaemon(t, "exec sleep 1000")))
	b.must(unix.Kill((*ids)[0], unix.SIGKILL))
	waitDone(t, b.share)
	if err := b.share.Err(); err == nil || !strings.Contains(err.Error(), "nanoclaw-hide") {
		t.Errorf("reported as %v", err)
	}
	if _, err := os.Lstat(b.path(out.Mounts[0].Source, ".env")); !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("it shows %v", err)
	}
}

func TestWhatCannotHide(t *testing.T) {
	b, _ := hiding(t)
	dir := b.mkdir("dir")
	b.bindMount(dir, dir)
	b.must(unix.Mount("", dir, "", unix.MS_SHARED, ""))
	_, err := b.add(testID, spec(bind(dir, "/w", "rslave")), annotations.KeyMountsHide, "/w/.env")
	if err == nil || !strings.Contains(err.Error(), "remove rslave") {
		t.Errorf("a mount that follows the host: %v", err)
	}
	cause := errors.New("no room")
	b.start = func(*exec.Cmd) error { return cause }
	if _, err := b.add(testID, spec(bind(dir, "/w")), annotations.KeyMountsHide, "/w/.env"); !errors.Is(err, cause) {
		t.Errorf("without its process: %v", err)
	}
	b.start = func(c *exec.Cmd) error { c.Path = "/bin/false"; return c.Start() }
	if _, err := b.add(testID, spec(bind(dir, "/w")), annotations.KeyMountsHide, "/w/.env"); err == nil || !strings.Contains(err.Error(), "nanoclaw-hide: exit status 1") {
		t.Errorf("with a process that ends: %v", err)
	}
}
