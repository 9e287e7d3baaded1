package hidefs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/internal/testns"
)

// TestMain runs the tests in a mount namespace of their own.
func TestMain(m *testing.M) {
	if IsServer(os.Args) {
		if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_GETPID, 0, 0, 0); errno == 0 {
			Main()
		}
		// A program with C in it, as the race detector makes one, cannot give up
		// its rights. All else can be seen all the same.
		fmt.Fprintln(os.Stderr, serve(enter))
		os.Exit(1)
	}
	if os.Getuid() != 0 {
		fmt.Println("skipped: only root can make mounts")
		return
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		fmt.Println("skipped: this machine has no FUSE:", err)
		return
	}
	unix.Umask(0)
	testns.Main(m)
}

// bench is a folder of the host, and the same as it is shown at /w.
type bench struct {
	*testing.T
	host, seen string
}

// show has a folder served by a process.
func show(t *testing.T, patterns ...string) *bench {
	t.Helper()
	b := &bench{T: t, host: t.TempDir(), seen: t.TempDir()}
	fd, err := unix.OpenTree(unix.AT_FDCWD, b.host, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	b.must(err)
	folder := os.NewFile(uintptr(fd), b.host)
	mount, p, err := Mount(View{
		Folder: folder, Destination: "/w", Patterns: patterns, Attributes: unix.MOUNT_ATTR_NODEV, Place: b.seen,
	}, func(c *exec.Cmd) error {
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		return c.Start()
	})
	b.must(err)
	b.must(unix.MoveMount(int(mount.Fd()), "", unix.AT_FDCWD, b.seen, unix.MOVE_MOUNT_F_EMPTY_PATH))
	b.must(errors.Join(mount.Close(), folder.Close()))
	t.Cleanup(func() {
		if p.Ended() {
			t.Error(p.Failure())
		}
		b.must(unix.Unmount(b.seen, unix.MNT_DETACH))
		select {
		case <-p.Done():
		case <-time.After(10 * time.Second):
			t.Error("the process is still there after the mount has gone")
			<-p.Killed()
		}
	})
	return b
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// have makes files on the host; a name with a slash at its end is a folder.
func (b *bench) have(names ...string) {
	b.Helper()
	for _, name := range names {
		p := filepath.Join(b.host, name)
		if strings.HasSuffix(name, "/") {
			b.must(os.MkdirAll(p, 0o755))
			continue
		}
		b.must(os.MkdirAll(filepath.Dir(p), 0o755))
		b.must(os.WriteFile(p, []byte(name), 0o644))
	}
}

func (b *bench) list(dir string) string {
	b.Helper()
	entries, err := os.ReadDir(filepath.Join(b.seen, dir))
	b.must(err)
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// world is what every attempt finds.
func (b *bench) world() {
	b.have("a/secret", "a/open", "b/", "deep/er/secret/key", "deep/er/x", ".env", ".env.local", "c/d/", "plain")
}

// patterns hide what the attempts are after.
var patterns = []string{"/w/.env*", "/w/a/secret", "/w/deep/**/secret"}

// attempts are ways to what is hidden, each in a folder of its own; they return
// nil where they got through.
var attempts = map[string]struct {
	want error
	try  func(dir string) error
}{
	"open":         {unix.ENOENT, func(d string) error { return open(d+"/.env", unix.O_RDONLY) }},
	"stat":         {unix.ENOENT, func(d string) error { return unix.Lstat(d+"/a/secret", new(unix.Stat_t)) }},
	"o-path":       {unix.ENOENT, func(d string) error { return open(d+"/a/secret", unix.O_PATH) }},
	"dot-dot":      {unix.ENOENT, func(d string) error { return open(d+"/b/../a/secret", unix.O_RDONLY) }},
	"openat":       {unix.ENOENT, func(d string) error { return within(d+"/a", "secret", unix.O_RDONLY) }},
	"below a name": {unix.ENOENT, func(d string) error { return open(d+"/deep/er/secret/key", unix.O_RDONLY) }},
	"enter":        {unix.ENOENT, func(d string) error { return open(d+"/deep/er/secret", unix.O_DIRECTORY) }},
	"symlink":      {unix.ENOENT, func(d string) error { return first(unix.Symlink("a/secret", d+"/l"), open(d+"/l", unix.O_RDONLY)) }},
	"linked folder": {unix.ENOENT, func(d string) error {
		return first(unix.Symlink("../a", d+"/b/l"), open(d+"/b/l/secret", unix.O_RDONLY))
	}},
	"hard link": {unix.ENOENT, func(d string) error { return unix.Link(d+"/.env", d+"/copy") }},
	"rename":    {unix.ENOENT, func(d string) error { return unix.Rename(d+"/.env", d+"/seen") }},
	"parent":    {unix.EACCES, func(d string) error { return first(unix.Rename(d+"/a", d+"/z"), open(d+"/z/secret", unix.O_RDONLY)) }},
	"grandparent": {unix.EACCES, func(d string) error {
		return first(unix.Rename(d+"/deep", d+"/z"), open(d+"/z/er/secret/key", unix.O_RDONLY))
	}},
	"parent deeper": {unix.EACCES, func(d string) error { return unix.Rename(d+"/a", d+"/b/a") }},
	"swap": {unix.EACCES, func(d string) error {
		return first(unix.Renameat2(unix.AT_FDCWD, d+"/a", unix.AT_FDCWD, d+"/b", unix.RENAME_EXCHANGE), open(d+"/b/secret", unix.O_RDONLY))
	}},
	"swap the name": {unix.ENOENT, func(d string) error {
		return unix.Renameat2(unix.AT_FDCWD, d+"/plain", unix.AT_FDCWD, d+"/.env", unix.RENAME_EXCHANGE)
	}},
	"swap a link for the folder": {unix.EACCES, func(d string) error {
		return first(unix.Symlink("b", d+"/l"), unix.Renameat2(unix.AT_FDCWD, d+"/l", unix.AT_FDCWD, d+"/a", unix.RENAME_EXCHANGE), open(d+"/l/secret", unix.O_RDONLY))
	}},
	"remove":            {unix.ENOENT, func(d string) error { return unix.Unlink(d + "/.env") }},
	"remove the folder": {unix.ENOTEMPTY, func(d string) error { return first(unix.Unlink(d+"/a/open"), removeFolder(d+"/a")) }},
	"chmod":             {unix.ENOENT, func(d string) error { return unix.Chmod(d+"/.env", 0) }},
	"xattr":             {unix.ENOENT, func(d string) error { return unix.Setxattr(d+"/.env", "user.x", []byte("x"), 0) }},
	"truncate":          {unix.ENOENT, func(d string) error { return unix.Truncate(d+"/.env", 0) }},
	"write":             {unix.EACCES, func(d string) error { return open(d+"/.env", unix.O_WRONLY|unix.O_CREAT) }},
	"create":            {unix.EACCES, func(d string) error { return open(d+"/.env.new", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL) }},
	"mkdir":             {unix.EACCES, func(d string) error { return unix.Mkdir(d+"/c/d/../../.envs", 0o755) }},
	"mknod":             {unix.EACCES, func(d string) error { return unix.Mknod(d+"/.env.fifo", unix.S_IFIFO|0o644, 0) }},
	"symlink there":     {unix.EACCES, func(d string) error { return unix.Symlink("plain", d+"/.env.link") }},
	"link there":        {unix.EACCES, func(d string) error { return unix.Link(d+"/plain", d+"/.env.link") }},
	"move there":        {unix.EACCES, func(d string) error { return unix.Rename(d+"/plain", d+"/.env.moved") }},
	"over it":           {unix.EACCES, func(d string) error { return unix.Rename(d+"/plain", d+"/.env") }},
	"a folder over": {unix.EACCES, func(d string) error {
		return first(unix.Mkdir(d+"/n", 0o755), os.WriteFile(d+"/n/secret", nil, 0o644), os.RemoveAll(d+"/c"), unix.Rename(d+"/n", d+"/deep/n"))
	}},
	"tmpfile": {unix.EACCES, func(d string) error {
		fd, err := unix.Open(d, unix.O_TMPFILE|unix.O_RDWR, 0o644)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		return unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), unix.AT_FDCWD, d+"/.env.tmp", unix.AT_SYMLINK_FOLLOW)
	}},
}

// first returns the first error.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func open(name string, flags int) error {
	fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func within(dir, name string, flags int) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	in, err := unix.Openat(fd, name, flags, 0)
	if err != nil {
		return err
	}
	return unix.Close(in)
}

// removeFolder says ENOTEMPTY also where a folder was empty but for what was
// hidden: without the rule there is more in it.
func removeFolder(name string) error {
	if err := os.RemoveAll(name + "/secret"); err != nil {
		return err
	}
	return unix.Rmdir(name)
}

// Each attempt is stopped, leaves the host's files as they were, and would
// succeed without the rule.
func TestAttempts(t *testing.T) {
	for name, a := range attempts {
		t.Run(name, func(t *testing.T) {
			b := show(t, patterns...)
			b.world()
			if err := a.try(b.seen); !errors.Is(err, a.want) {
				t.Errorf("%v, want %v", err, a.want)
			}
			for _, secret := range []string{"a/secret", ".env", ".env.local", "deep/er/secret/key"} {
				if got, err := os.ReadFile(filepath.Join(b.host, secret)); string(got) != secret {
					t.Errorf("%s on the host is %q (%v)", secret, got, err)
				}
			}
			free := show(t)
			free.world()
			if err := a.try(free.seen); err != nil {
				t.Errorf("it fails without the rule as well, and so proves nothing: %v", err)
			}
		})
	}
}

func TestListingsAndLaterFiles(t *testing.T) {
	b := show(t, patterns...)
	b.world()
	if got := b.list(""); got != "a b c deep plain" {
		t.Errorf("listed: %s", got)
	}
	if got := b.list("a"); got != "open" {
		t.Errorf("listed: %s", got)
	}
	// What comes later is hidden too, also where its absence was seen, or it was
	// seen under another name and is still held.
	held, err := unix.Open(filepath.Join(b.seen, "plain"), unix.O_PATH, 0)
	b.must(err)
	defer func() { _ = unix.Close(held) }()
	b.must(os.Rename(filepath.Join(b.host, "plain"), filepath.Join(b.host, ".env.plain")))
	b.have(".env.later", "deep/new/secret")
	for _, name := range []string{".env.later", ".env.plain", "deep/new/secret"} {
		if err := open(filepath.Join(b.seen, name), unix.O_RDONLY); !errors.Is(err, unix.ENOENT) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := open("/proc/self/fd/"+strconv.Itoa(held), unix.O_RDONLY); !errors.Is(err, unix.ENOENT) {
		t.Errorf("what the host moved to a hidden name is opened by what held it before: %v", err)
	}
	if got := b.list("deep/new"); got != "" {
		t.Errorf("listed: %s", got)
	}
	// And what the host moves out is seen.
	b.must(os.Rename(filepath.Join(b.host, ".env"), filepath.Join(b.host, "env")))
	if got, err := os.ReadFile(filepath.Join(b.seen, "env")); string(got) != ".env" {
		t.Errorf("%q, %v", got, err)
	}
}

// A folder that the host moves to where other names are hidden is judged by where
// it is, also by who holds it.
func TestFoldersThatTheHostMoves(t *testing.T) {
	b := show(t, patterns...)
	b.have("b/secret")
	fd, err := unix.Open(filepath.Join(b.seen, "b"), unix.O_PATH, 0)
	b.must(err)
	defer func() { _ = unix.Close(fd) }()
	b.must(unix.Faccessat(fd, "secret", unix.R_OK, 0))
	b.must(os.Rename(filepath.Join(b.host, "b"), filepath.Join(b.host, "a")))
	if err := unix.Faccessat(fd, "secret", unix.R_OK, 0); !errors.Is(err, unix.ENOENT) {
		t.Errorf("it is still seen: %v", err)
	}
}

// What is not hidden is moved about as ever.
func TestRenamesThatChangeNothing(t *testing.T) {
	b := show(t, "/w/**/secret", "/w/*/key")
	b.have("x/y/z", "x/secret", "v/", "file")
	for _, move := range [][2]string{{"x", "new"}, {"file", "v/file"}, {"v/file", "v/again"}, {"new/y", "new/moved"}} {
		if err := os.Rename(filepath.Join(b.seen, move[0]), filepath.Join(b.seen, move[1])); err != nil {
			t.Error(err)
		}
	}
	if err := os.Rename(filepath.Join(b.seen, "new/moved"), filepath.Join(b.seen, "up")); err == nil {
		t.Error("a folder was moved to where another name is hidden below it")
	}
	if got := b.list("new"); got != "moved" {
		t.Errorf("listed: %s", got)
	}
}

// The folder is otherwise as it is: content, owners, modes, links, attributes,
// locks, holes, maps.
func TestEverythingElseIsAsInTheFolder(t *testing.T) {
	b := show(t, patterns...)
	in := func(name string) string { return filepath.Join(b.seen, name) }
	host := func(name string) string { return filepath.Join(b.host, name) }
	stat := func(name string) (st unix.Stat_t) { b.must(unix.Lstat(name, &st)); return st }

	b.must(os.WriteFile(in("f"), []byte("one"), 0o640))
	b.must(os.WriteFile(host("f"), []byte("changed"), 0))
	if got, err := os.ReadFile(in("f")); string(got) != "changed" || stat(in("f")).Mode != unix.S_IFREG|0o640 {
		t.Errorf("%q %v %o", got, err, stat(in("f")).Mode)
	}
	f, err := os.OpenFile(in("f"), os.O_RDWR|os.O_APPEND, 0)
	b.must(err)
	b.must(os.WriteFile(host("f"), []byte("changed more"), 0))
	_, err = f.WriteString("+end")
	b.must(err)
	if got, _ := os.ReadFile(host("f")); string(got) != "changed more+end" {
		t.Errorf("appended: %q", got)
	}
	b.must(f.Truncate(4))
	b.must(f.Sync())
	// Without a name it is still a file.
	b.must(os.Remove(in("f")))
	b.must(f.Chmod(0o600))
	if i, err := f.Stat(); err != nil || i.Size() != 4 || i.Mode() != 0o600 {
		t.Errorf("%v %v", i, err)
	}
	b.must(f.Close())

	b.must(os.Mkdir(in("d"), 0o2775))
	b.must(os.Chown(in("d"), 1234, 77))
	b.must(os.Chmod(in("d"), 0o2775|os.ModeSetgid))
	b.must(os.Symlink("/etc/passwd", in("l")))
	if target, err := os.Readlink(host("l")); target != "/etc/passwd" {
		t.Errorf("%q %v", target, err)
	}
	b.must(os.Link(in("l"), in("l2")))
	if stat(in("l2")).Nlink != 2 || stat(in("l2")).Ino != stat(host("l")).Ino {
		t.Errorf("%+v", stat(in("l2")))
	}
	b.must(unix.Lchown(in("l"), 5, 6))
	if st := stat(host("l")); st.Uid != 5 || st.Gid != 6 {
		t.Errorf("%+v", st)
	}
	b.must(unix.Mknod(in("p"), unix.S_IFIFO|0o600, 0))
	b.must(os.WriteFile(in("x"), make([]byte, 3<<20), 0o644))
	if err := unix.Setxattr(in("x"), "user.nano", []byte("claw"), 0); err == nil {
		buf := make([]byte, 16)
		if n, err := unix.Getxattr(host("x"), "user.nano", buf); err != nil || string(buf[:n]) != "claw" {
			t.Errorf("%q %v", buf, err)
		}
		if n, err := unix.Listxattr(in("x"), buf); err != nil || !strings.Contains(string(buf[:n]), "user.nano") {
			t.Errorf("%q %v", buf, err)
		}
		b.must(unix.Removexattr(in("x"), "user.nano"))
	}
	b.must(os.Chmod(in("x"), 0o755|os.ModeSetuid))
	b.must(os.WriteFile(in("x"), []byte("other"), 0))
	if st := stat(host("x")); st.Mode&unix.S_ISUID != 0 {
		t.Errorf("what was written is still setuid: %o", st.Mode)
	}
	b.must(unix.Utimes(in("x"), []unix.Timeval{{Sec: 5}, {Sec: 7}}))
	if st := stat(host("x")); st.Atim.Sec != 5 || st.Mtim.Sec != 7 {
		t.Errorf("%+v", st)
	}
	for i := range 1500 {
		b.must(os.WriteFile(fmt.Sprintf("%s/many-%04d-%s", in("d"), i, strings.Repeat("n", 60)), nil, 0o644))
	}
	if got := strings.Fields(b.list("d")); len(got) != 1500 || len(slices.Compact(got)) != 1500 {
		t.Errorf("%d of 1500 listed", len(got))
	}
	if _, _, err := unix.NameToHandleAt(unix.AT_FDCWD, in("d"), 0); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Logf("this kernel gives handles of files: %v", err)
	}
	var at, below unix.Statfs_t
	b.must(unix.Statfs(b.seen, &at))
	b.must(unix.Statfs(b.host, &below))
	if at.Blocks != below.Blocks {
		t.Errorf("%+v %+v", at, below)
	}
}

// New files belong to whoever makes them, with the group of a setgid folder.
func TestOwnersOfNewFiles(t *testing.T) {
	b := show(t, patterns...)
	b.have("open/", "group/")
	b.must(os.Chmod(filepath.Join(b.host, "open"), 0o777))
	b.must(os.Chown(filepath.Join(b.host, "group"), 0, 77))
	b.must(os.Chmod(filepath.Join(b.host, "group"), 0o777|os.ModeSetgid))
	b.must(os.Chmod(b.host, 0o755))
	b.must(os.Chmod(b.seen, 0o755))
	for dir := b.seen; dir != "/"; dir = filepath.Dir(dir) {
		_ = os.Chmod(dir, 0o755)
	}
	cmd := exec.Command("/bin/sh", "-c", "touch open/f; mkdir open/d; ln -s x open/l; touch group/f; mkdir group/d; mkfifo group/p; touch no 2>/dev/null && echo made")
	cmd.Dir = b.seen
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 1235}}
	if out, err := cmd.CombinedOutput(); len(out) > 0 {
		t.Errorf("%s %v", out, err)
	}
	for name, gid := range map[string]uint32{"open/f": 1235, "open/d": 1235, "open/l": 1235, "group/f": 77, "group/d": 77, "group/p": 77} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(b.host, name), &st); err != nil || st.Uid != 1234 || st.Gid != gid {
			t.Errorf("%s is %d:%d %v", name, st.Uid, st.Gid, err)
		}
		if (name == "group/d") != (st.Mode&unix.S_ISGID != 0) {
			t.Errorf("%s has mode %o", name, st.Mode)
		}
	}
}

func TestCheck(t *testing.T) {
	if err := Check(); err != nil {
		t.Fatal(err)
	}
	// Where there is no such device.
	if err := unix.Mount("tmpfs", "/dev", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount("/dev", unix.MNT_DETACH) }()
	if err := Check(); err == nil || !strings.Contains(err.Error(), "modprobe fuse") {
		t.Errorf("without /dev/fuse: %v", err)
	}
}
