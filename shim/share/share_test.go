package share

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/internal/fullspec"
)

const testID = "c0ffee"

// bench is a share, a root file system, and a folder for sources.
type bench struct {
	*testing.T
	share  *Share
	rootfs string
	// work is a folder of sources, in /srv-like surroundings that no rule is about.
	work string
	// start starts the share's processes.
	start Starter
	// decisions are what was decided about bind mounts.
	decisions []string
}

func (b *bench) decide(m annotations.Mount, refused, would error) {
	s := fmt.Sprintf("%s read-only=%v refused=%v", m.Destination, m.ReadOnly, refused != nil)
	if would != nil {
		s += " would be"
	}
	b.decisions = append(b.decisions, s)
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{T: t, start: (*exec.Cmd).Start, rootfs: t.TempDir(), work: t.TempDir()}
	run := t.TempDir()
	s, err := New(run, func(c *exec.Cmd) error { return b.start(c) })
	if err != nil {
		t.Fatal(err)
	}
	b.share = s
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if left, err := os.ReadDir(run); err != nil || len(left) > 0 {
			t.Errorf("left in the run directory: %v (%v)", left, err)
		}
		if left := mountsBelow(t, run); len(left) > 0 {
			t.Errorf("mounts left: %v", left)
		}
	})
	return b
}

func mountsBelow(t *testing.T, dir string) []string {
	t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range mounts {
		names = append(names, m.Mountpoint)
	}
	return names
}

func (b *bench) mkdir(names ...string) string {
	b.Helper()
	p := filepath.Join(append([]string{b.work}, names...)...)
	if err := os.MkdirAll(p, 0o755); err != nil {
		b.Fatal(err)
	}
	return p
}

func (b *bench) file(name, content string) string {
	b.Helper()
	p := filepath.Join(b.work, name)
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		b.Fatal(err)
	}
	return p
}

func (b *bench) bindMount(source, target string) {
	b.Helper()
	b.must(unix.Mount(source, target, "", unix.MS_BIND, ""))
	b.Cleanup(func() { b.must(unix.Unmount(target, unix.MNT_DETACH)) })
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func bind(source, dest string, opts ...string) specs.Mount {
	return specs.Mount{Type: "bind", Source: source, Destination: dest, Options: append([]string{"rbind"}, opts...)}
}

func spec(mounts ...specs.Mount) *specs.Spec {
	return &specs.Spec{
		Root: &specs.Root{Path: "rootfs"}, Mounts: mounts, Process: &specs.Process{Cwd: "/"},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "network"},
		}},
	}
}

// add adds a container with spec; annotation pairs follow.
func (b *bench) add(id string, s *specs.Spec, pairs ...string) (*specs.Spec, error) {
	b.Helper()
	given := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		given[pairs[i]] = pairs[i+1]
	}
	policy, err := annotations.Compile(annotations.Input{ID: id, Annotations: given, Spec: s, Enforced: annotations.Everything})
	b.must(err)
	return b.share.AddContainer(context.Background(), id, s, policy, b.rootfs, b.decide)
}

func (b *bench) mustAdd(s *specs.Spec, pairs ...string) *specs.Spec {
	b.Helper()
	out, err := b.add(testID, s, pairs...)
	b.must(err)
	return out
}

// refused expects a refusal that says all of words.
func (b *bench) refused(s *specs.Spec, words ...string) {
	b.Helper()
	out, err := b.add(testID, s)
	if err == nil {
		b.Fatalf("shared: %+v", out.Mounts)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			b.Errorf("the message lacks %q: %v", w, err)
		}
	}
	if left := mountsBelow(b.T, b.share.Dir()); len(left) != 1 {
		b.Errorf("a refused container left mounts: %v", left)
	}
	entries, err := os.ReadDir(b.share.Dir())
	b.must(err)
	if len(entries) > 0 {
		b.Errorf("a refused container left %v", entries)
	}
}

// path is where a place of the guest's is in the tree.
func (b *bench) path(guest string, below ...string) string {
	b.Helper()
	rest, ok := strings.CutPrefix(guest, agent.ShareDir)
	if !ok {
		b.Fatalf("%q is not below %s", guest, agent.ShareDir)
	}
	return filepath.Join(append([]string{b.share.Dir(), rest}, below...)...)
}

func TestTranslatesRootAndBinds(t *testing.T) {
	b := newBench(t)
	b.must(os.WriteFile(filepath.Join(b.rootfs, "in-image"), []byte("x"), 0o644))
	dir, file := b.mkdir("dir"), b.file("file", "content")
	b.must(os.WriteFile(filepath.Join(dir, "inner"), []byte("y"), 0o644))
	in := spec(
		specs.Mount{Type: "proc", Source: "proc", Destination: "/proc"},
		bind(dir, "/data", "rprivate"),
		specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/tmp", Options: []string{"size=1m"}},
		bind(file, "/etc/one", "ro"),
	)
	before, err := json.Marshal(in)
	b.must(err)
	out := b.mustAdd(in)
	after, err := json.Marshal(in)
	b.must(err)
	if string(before) != string(after) {
		t.Error("the given spec was changed")
	}
	if want := agent.ShareDir + "/" + testID + "/rootfs"; out.Root.Path != want {
		t.Errorf("root is %q, want %q", out.Root.Path, want)
	}
	for _, i := range []int{0, 2} {
		if out.Mounts[i].Source != in.Mounts[i].Source || out.Mounts[i].Type != in.Mounts[i].Type {
			t.Errorf("mount %d changed: %+v", i, out.Mounts[i])
		}
	}
	if got := strings.Join(out.Mounts[1].Options, ","); got != "rbind,rprivate" {
		t.Errorf("options became %q", got)
	}
	for _, f := range []struct{ guest, below, want string }{
		{out.Root.Path, "in-image", "x"}, {out.Mounts[1].Source, "inner", "y"}, {out.Mounts[3].Source, "", "content"},
	} {
		got, err := os.ReadFile(b.path(f.guest, f.below))
		if err != nil || string(got) != f.want {
			t.Errorf("%s/%s holds %q (%v), want %q", f.guest, f.below, got, err, f.want)
		}
	}
}

// Each decision about files of the host is told, as it was carried out.
func TestDecisionsAreTold(t *testing.T) {
	b := newBench(t)
	dir := b.mkdir("dir")
	if _, err := b.add(testID, spec(
		specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/tmp"},
		bind(dir, "/written"), bind(dir, "/read", "ro"), bind(dir, "/forced"), bind("/etc", "/refused"), bind(dir, "/never-looked-at"),
	), annotations.KeyMountsReadonly, "/forced"); err == nil {
		t.Error("/etc was shared")
	}
	want := []string{
		"/written read-only=false refused=false", "/read read-only=true refused=false",
		"/forced read-only=true refused=false", "/refused read-only=false refused=true",
	}
	if !slices.Equal(b.decisions, want) {
		t.Errorf("told %q, want %q", b.decisions, want)
	}
}

func TestSingleFileIsNotItsFolder(t *testing.T) {
	b := newBench(t)
	file := b.file("shown", "x")
	b.file("secret", "y")
	out := b.mustAdd(spec(bind(file, "/etc/shown")))
	st, err := os.Lstat(b.path(out.Mounts[0].Source))
	if err != nil || !st.Mode().IsRegular() {
		t.Fatalf("shared as %v (%v)", st, err)
	}
	err = filepath.WalkDir(b.share.Dir(), func(p string, _ os.DirEntry, err error) error {
		if strings.Contains(p, "secret") {
			t.Errorf("%s is in the tree", p)
		}
		return err
	})
	b.must(err)
}

func TestFileReplacedInPlaceIsSeen(t *testing.T) {
	b := newBench(t)
	file := b.file("resolv.conf", "old")
	out := b.mustAdd(spec(bind(file, "/etc/resolv.conf")))
	b.must(os.WriteFile(file, []byte("new"), 0o644))
	if got, err := os.ReadFile(b.path(out.Mounts[0].Source)); string(got) != "new" {
		t.Errorf("the share has %q (%v)", got, err)
	}
}

func TestSkeletonIsReadOnly(t *testing.T) {
	b := newBench(t)
	b.mustAdd(spec())
	for _, dir := range []string{"", testID, testID + "/mounts"} {
		err := os.WriteFile(filepath.Join(b.share.Dir(), dir, "x"), nil, 0o644)
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("writing to %q: %v, want EROFS", dir, err)
		}
	}
}

func TestReadOnlyIsSetOnTheHost(t *testing.T) {
	b := newBench(t)
	dir := b.mkdir("dir", "sub")
	dir = filepath.Dir(dir)
	inner := b.mkdir("inner")
	b.bindMount(inner, filepath.Join(dir, "sub"))
	file := b.file("file", "x")
	rw := b.mkdir("rw")
	out := b.mustAdd(spec(bind(dir, "/ro", "ro"), bind(file, "/file", "rro"), bind(rw, "/rw")))
	for _, p := range []string{b.path(out.Mounts[0].Source, "new"), b.path(out.Mounts[0].Source, "sub/new"), b.path(out.Mounts[1].Source)} {
		if err := os.WriteFile(p, []byte("y"), 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("writing %s: %v, want EROFS", p, err)
		}
	}
	b.must(os.WriteFile(b.path(out.Mounts[2].Source, "new"), nil, 0o644))
	// The source itself stays as it was.
	b.must(os.WriteFile(filepath.Join(dir, "new"), nil, 0o644))
}

// TestReadOnlyNeedsTheAttribute shows that the test above can fail.
func TestReadOnlyNeedsTheAttribute(t *testing.T) {
	b := newBench(t)
	dir := filepath.Dir(b.mkdir("dir", "sub"))
	b.bindMount(b.mkdir("inner"), filepath.Join(dir, "sub"))
	for _, c := range []struct {
		name     string
		h        how
		writable string
	}{
		{"without read-only", how{recursive: true}, "new"},
		// The classic mistake: only the upper mount is made read-only.
		{"not recursive", how{readonly: true}, "sub/new"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fd, err := os.OpenFile(dir, unix.O_PATH, 0)
			b.must(err)
			defer closeQuietly(fd)
			tree, err := clone(fd, how{recursive: true, readonly: c.h.readonly && c.h.recursive})
			b.must(err)
			defer closeQuietly(tree)
			if c.h.readonly {
				b.must(unix.MountSetattr(int(tree.Fd()), "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}))
			}
			target := t.TempDir()
			b.must(unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH))
			defer func() { b.must(unix.Unmount(target, unix.MNT_DETACH)) }()
			if err := os.WriteFile(filepath.Join(target, c.writable), nil, 0o644); err != nil {
				t.Errorf("the attack failed: %v", err)
			}
		})
	}
}

func TestAnnotationForcesReadOnly(t *testing.T) {
	b := newBench(t)
	out := b.mustAdd(spec(bind(b.mkdir("dir"), "/data")), annotations.KeyMountsReadonly, "/data")
	if err := os.WriteFile(b.path(out.Mounts[0].Source, "x"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing: %v, want EROFS", err)
	}
	if !strings.Contains(strings.Join(out.Mounts[0].Options, ","), "ro") {
		t.Errorf("the guest is not told: %v", out.Mounts[0].Options)
	}
}

func TestMountsAreConfined(t *testing.T) {
	b := newBench(t)
	node := filepath.Join(b.work, "null")
	b.must(unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	if f, err := os.Open(node); err != nil {
		t.Skipf("the machine's own mount does not open devices: %v", err)
	} else {
		closeQuietly(f)
	}
	out := b.mustAdd(spec(bind(b.work, "/data")))
	if f, err := os.Open(b.path(out.Mounts[0].Source, "null")); !errors.Is(err, unix.EACCES) {
		t.Errorf("a device node in the tree opened: %v %v", f, err)
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(b.share.Dir()))
	b.must(err)
	for _, m := range mounts {
		for _, want := range []string{"nodev", "nosuid", "noexec"} {
			if !strings.Contains(m.Options, want) {
				t.Errorf("%s is not %s: %s", m.Mountpoint, want, m.Options)
			}
		}
		if strings.Contains(m.Optional, "shared") {
			t.Errorf("%s is shared", m.Mountpoint)
		}
	}
}

func TestRefusesWhatSourcesResolveTo(t *testing.T) {
	b := newBench(t)
	link := func(target string) string {
		name := filepath.Join(b.work, "link-"+strings.ReplaceAll(target, "/", "_"))
		b.must(os.Symlink(target, name))
		return name
	}
	bound := b.mkdir("bound")
	b.bindMount("/etc", bound)
	boundSub := b.mkdir("bound-sub")
	b.bindMount("/etc/security", boundSub)
	outer := b.mkdir("outer")
	b.bindMount("/etc", b.mkdir("outer", "inner"))
	ancestor := b.mkdir("ancestor")
	b.bindMount("/var", ancestor)
	kernel := b.mkdir("kernel")
	b.must(unix.Mount("proc", kernel, "proc", 0, ""))
	t.Cleanup(func() { b.must(unix.Unmount(kernel, unix.MNT_DETACH)) })
	home := b.mkdir("home")
	b.mkdir("home", ".ssh")
	secrets := b.mkdir("other", ".aws")

	for _, c := range []struct {
		name, source string
		words        []string
	}{
		{"the root", "/", []string{"whole file system"}},
		{"by name", "/etc", []string{"/etc", "system folder", "baseline"}},
		{"below", "/etc/security", []string{"lies in /etc"}},
		{"dots", b.work + "/../../../../../../etc", []string{"resolves to \"/etc\""}},
		{"a link", link("/etc"), []string{"resolves to \"/etc\""}},
		{"a link to a file", link("/etc/passwd"), []string{"resolves to \"/etc/passwd\""}},
		{"a link on the way", link("/var") + "/lib", []string{"/var/lib"}},
		{"/var/run", "/var/run", []string{"/run"}},
		{"/var", "/var", []string{"contains"}},
		{"a bind mount", bound, []string{"is the same as \"/etc\""}},
		{"a bind mount of a part", boundSub, []string{"is the same as \"/etc/security\""}},
		{"below a bind mount", bound + "/security", []string{"is the same as \"/etc/security\""}},
		{"a mount within", outer, []string{"contains the mount", "/etc"}},
		{"a bind mount of an ancestor", ancestor, []string{"contains"}},
		{"proc elsewhere", kernel, []string{"kernel"}},
		{"credentials", secrets, []string{"credential"}},
		{"a home folder", home, []string{"holds \".ssh\"", "credential"}},
		{"a magic link", "/proc/self/cwd", []string{"/proc"}},
		{"dev", "/dev/shm", []string{"/dev"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := *b
			at.T = t
			at.refused(spec(bind(c.source, "/x")), c.words...)
		})
	}
}

// TestEveryNameIsNeeded switches each way of finding a source's names off and
// sees what it was for get through.
func TestEveryNameIsNeeded(t *testing.T) {
	b := newBench(t)
	bound := b.mkdir("bound")
	b.bindMount("/etc", bound)
	outer := b.mkdir("outer")
	b.bindMount("/etc", b.mkdir("outer", "inner"))
	home := b.mkdir("home")
	b.mkdir("home", ".ssh")
	link := filepath.Join(b.work, "link")
	b.must(os.Symlink("/etc", link))

	policy, err := annotations.Compile(annotations.Input{ID: testID, Spec: spec()})
	b.must(err)
	for _, c := range []struct {
		name, source string
		without      func(*annotations.Source)
	}{
		{"aliases", bound, func(s *annotations.Source) { s.Aliases = nil }},
		{"mounts within", outer, func(s *annotations.Source) { s.Inside = nil }},
		{"what it holds", home, func(s *annotations.Source) { s.Holds = nil }},
		{"resolving", link, func(s *annotations.Source) { s.Path = s.Asked; s.Aliases = nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, err := look(b.share.Dir(), policy)
			b.must(err)
			s, err := h.resolve(c.source)
			b.must(err)
			defer closeQuietly(s.file)
			m := annotations.Mount{Destination: "/x", Source: s.Source}
			if policy.CheckMount(m) == nil {
				t.Error("the check let it through")
			}
			c.without(&m.Source)
			if err := policy.CheckMount(m); err != nil {
				t.Errorf("another check stops it too, so this test proves nothing: %v", err)
			}
		})
	}
}

// TestExchangedSourceIsNotMounted exchanges the source after it was resolved.
func TestExchangedSourceIsNotMounted(t *testing.T) {
	b := newBench(t)
	good := b.mkdir("good")
	b.must(os.WriteFile(filepath.Join(good, "good"), nil, 0o644))
	policy, err := annotations.Compile(annotations.Input{ID: testID, Spec: spec()})
	b.must(err)
	h, err := look(b.share.Dir(), policy)
	b.must(err)
	src, err := h.resolve(good)
	b.must(err)
	defer closeQuietly(src.file)
	b.must(policy.CheckMount(annotations.Mount{Destination: "/x", Source: src.Source}))

	b.must(os.Rename(good, good+".old"))
	b.must(os.Symlink("/etc", good))

	mountTree := func(f *os.File) string {
		tree, err := clone(f, how{recursive: true})
		b.must(err)
		defer closeQuietly(tree)
		target := t.TempDir()
		b.must(unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH))
		t.Cleanup(func() { b.must(unix.Unmount(target, unix.MNT_DETACH)) })
		return target
	}
	if _, err := os.Stat(filepath.Join(mountTree(src.file), "good")); err != nil {
		t.Errorf("what was mounted is not what was checked: %v", err)
	}
	// Opened by its name again, as it would be without the descriptor, it is the
	// forbidden place.
	again, err := os.OpenFile(good, unix.O_PATH, 0)
	b.must(err)
	defer closeQuietly(again)
	if _, err := os.Stat(filepath.Join(mountTree(again), "passwd")); err != nil {
		t.Errorf("the attack failed even without the descriptor: %v", err)
	}
}

func TestSocketsAndDevices(t *testing.T) {
	b := newBench(t)
	socket := filepath.Join(b.work, "some.sock")
	b.must(unix.Mknod(socket, unix.S_IFSOCK|0o600, 0))
	engine := filepath.Join(b.work, "docker.sock")
	b.must(unix.Mknod(engine, unix.S_IFSOCK|0o600, 0))
	fifo := filepath.Join(b.work, "fifo")
	b.must(unix.Mkfifo(fifo, 0o600))
	disk := filepath.Join(b.work, "disk")
	b.must(unix.Mknod(disk, unix.S_IFBLK|0o600, int(unix.Mkdev(254, 0))))

	b.refused(spec(bind(socket, "/x")), "socket", "network")
	b.refused(spec(bind(engine, "/x")), "controls the host")
	b.refused(spec(bind(fifo, "/x")), "named pipe")
	b.refused(spec(bind(disk, "/x")), "block device")

	out := b.mustAdd(spec(bind("/dev/null", "/data/.env")))
	if got := out.Mounts[0].Source; got != "/dev/null" {
		t.Errorf("/dev/null became %q, not the guest's own", got)
	}
	if left := mountsBelow(t, filepath.Join(b.share.Dir(), testID, "mounts")); len(left) > 0 {
		t.Errorf("the host's device is in the tree: %v", left)
	}
}

func TestReadOnlyRoot(t *testing.T) {
	b := newBench(t)
	s := spec(bind(b.mkdir("dir"), "/new/folder"), bind(b.file("file", "x"), "/new/file"),
		specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/scratch"})
	s.Root.Readonly = true
	s.Process.Cwd = "/work/dir"
	out := b.mustAdd(s)
	for _, d := range []string{"new/folder", "scratch", "work/dir"} {
		if st, err := os.Stat(b.path(out.Root.Path, d)); err != nil || !st.IsDir() {
			t.Errorf("no mount point %s: %v", d, err)
		}
	}
	if st, err := os.Stat(b.path(out.Root.Path, "new/file")); err != nil || !st.Mode().IsRegular() {
		t.Errorf("no mount point for the file: %v", err)
	}
	if err := os.WriteFile(b.path(out.Root.Path, "x"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing to the root: %v, want EROFS", err)
	}
	// docker cp goes through the engine's own mount.
	b.must(os.WriteFile(filepath.Join(b.rootfs, "x"), nil, 0o644))
}

func TestMountPointsStayInTheRoot(t *testing.T) {
	outside := t.TempDir()
	for _, c := range []struct {
		name string
		make func(root string) error
		dest string
		want string
	}{
		{"absolute link", func(r string) error { return os.Symlink(outside, r+"/link") }, "/link/sub", outside + "/sub"},
		{"relative link", func(r string) error { return os.Symlink("../../../../../.."+outside, r+"/link") }, "/link/sub", outside + "/sub"},
		{"dangling link", func(r string) error { return os.Symlink("elsewhere/deep", r+"/link") }, "/link", "/elsewhere/deep"},
		{"dangling link on the way", func(r string) error { return os.Symlink("/elsewhere", r+"/link") }, "/link/a/b", "/elsewhere/a/b"},
		{"dots", func(string) error { return nil }, "/../../x", "/x"},
	} {
		for _, file := range []bool{false, true} {
			t.Run(c.name, func(t *testing.T) {
				root := t.TempDir()
				if err := c.make(root); err != nil {
					t.Fatal(err)
				}
				f, err := os.OpenFile(root, unix.O_PATH, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer closeQuietly(f)
				if err := makePath(int(f.Fd()), filepath.Join("/", c.dest), file); err != nil {
					t.Fatal(err)
				}
				st, err := os.Lstat(filepath.Join(root, c.want))
				if err != nil || st.IsDir() == file {
					t.Errorf("%s: %v %v", c.want, st, err)
				}
				if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
					t.Errorf("made outside: %v (%v)", left, err)
				}
			})
		}
	}
}

// TestMountPointsNeedTheRoot shows that following names as the host sees them
// leaves the root.
func TestMountPointsNeedTheRoot(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "link/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(outside, "sub")); err != nil {
		t.Errorf("the attack failed: %v", err)
	}
}

func TestLinkLoopEnds(t *testing.T) {
	root := t.TempDir()
	for from, to := range map[string]string{"a": "b/x", "b": "a/x"} {
		if err := os.Symlink(to, filepath.Join(root, from)); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.OpenFile(root, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeQuietly(f)
	if err := makePath(int(f.Fd()), "/a/y", false); err == nil {
		t.Error("a loop of links was followed to an end")
	}
}

func TestContainersAreIndependent(t *testing.T) {
	b := newBench(t)
	dir := b.mkdir("dir")
	_, err := b.add("one", spec(bind(dir, "/data")))
	b.must(err)
	two, err := b.add("two", spec(bind(dir, "/data", "ro")))
	b.must(err)
	if _, err := b.add("one", spec()); err == nil {
		t.Error("one id was added twice")
	}
	b.must(b.share.RemoveContainer("one"))
	b.must(b.share.RemoveContainer("one"))
	if _, err := os.Stat(filepath.Join(b.share.Dir(), "one")); !os.IsNotExist(err) {
		t.Errorf("the removed container is in the tree: %v", err)
	}
	if _, err := os.Stat(b.path(two.Mounts[0].Source)); err != nil {
		t.Errorf("the other container's mount went with it: %v", err)
	}
	b.must(os.WriteFile(filepath.Join(dir, "still-there"), nil, 0o644))
}

func TestRefusesOddSpecs(t *testing.T) {
	b := newBench(t)
	dir := b.mkdir("dir")
	b.refused(spec(bind("relative", "/x")), "absolute")
	b.refused(spec(bind(b.work+"/missing", "/x")), "does not exist")
	b.refused(spec(bind(dir, "/x", "rshared")), "rslave")
	b.refused(spec(bind(dir, "/x", "rslave")), "rslave") // the test's mounts are private
	b.refused(spec(specs.Mount{Type: "ext4", Source: "/dev/sda", Destination: "/x"}), "ext4")
	for _, id := range []string{"", ".", "..", "a/b", "-x", strings.Repeat("a", 200)} {
		if _, err := b.add(id, spec()); err == nil {
			t.Errorf("the id %q was accepted", id)
		}
	}
}

// TestErrorsAreNotTheCommands keeps the phrases out of messages by which Docker
// recognises a failure of the container's command.
func TestErrorsAreNotTheCommands(t *testing.T) {
	for _, errno := range []unix.Errno{unix.ENOENT, unix.EACCES, unix.ENOTDIR, unix.EISDIR, unix.EPERM, unix.ELOOP} {
		for _, phrase := range []string{"no such file or directory", "permission denied", "not a directory", "is a directory", "executable file not found"} {
			if got := plain(errno).Error(); strings.Contains(got, phrase) {
				t.Errorf("%d reads %q", errno, got)
			}
		}
		if !errors.Is(plain(errno), errno) {
			t.Errorf("%v lost its cause", errno)
		}
	}
}

func TestRefusesRootfs(t *testing.T) {
	b := newBench(t)
	policy, err := annotations.Compile(annotations.Input{ID: testID, Spec: spec()})
	b.must(err)
	for _, root := range []string{"/", "/etc", "/var", "/proc/1", "/etc/passwd"} {
		if _, err := b.share.AddContainer(context.Background(), testID, spec(), policy, root, b.decide); err == nil {
			t.Errorf("the root file system %s was shared", root)
		}
	}
}

func TestRefusesSharedNamespace(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := New(dir, (*exec.Cmd).Start); err == nil || !strings.Contains(err.Error(), "private") {
		t.Errorf("composed below a shared mount: %v", err)
	}
}

func TestSlaveFollowsTheHost(t *testing.T) {
	b := newBench(t)
	dir := b.mkdir("dir", "sub")
	dir = filepath.Dir(dir)
	b.bindMount(dir, dir)
	b.must(unix.Mount("", dir, "", unix.MS_SHARED, ""))
	out := b.mustAdd(spec(bind(dir, "/slave", "rslave"), bind(dir, "/private")))
	later := b.mkdir("later")
	b.must(os.WriteFile(filepath.Join(later, "x"), nil, 0o644))
	b.bindMount(later, filepath.Join(dir, "sub"))
	if _, err := os.Stat(b.path(out.Mounts[0].Source, "sub/x")); err != nil {
		t.Errorf("the slave does not see the later mount: %v", err)
	}
	if _, err := os.Stat(b.path(out.Mounts[1].Source, "sub/x")); err == nil {
		t.Error("the private mount sees the later mount")
	}
}

// Whatever else an engine asks for is left for the guest as it is.
func TestNothingElseIsChanged(t *testing.T) {
	b := newBench(t)
	s := spec()
	policy, err := annotations.Compile(annotations.Input{ID: testID, Spec: s})
	b.must(err)
	document := fullspec.Document[specs.Spec](map[string]any{
		"mounts": []any{
			map[string]any{"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": []any{"size=1m"}},
			fullspec.Document[specs.Mount](map[string]any{"type": "bind", "source": b.mkdir("data"), "destination": "/b", "options": []any{"rbind", "ro", "noexec"}}),
		},
	})
	raw, err := json.Marshal(document)
	b.must(err)
	var full specs.Spec
	b.must(json.Unmarshal(raw, &full))
	out, err := b.share.AddContainer(context.Background(), testID, &full, policy, b.rootfs, b.decide)
	b.must(err)
	was, is := b.leaves(&full), b.leaves(out)
	for path, values := range was {
		if path != "root.path" && path != "mounts.source" && !reflect.DeepEqual(values, is[path]) {
			t.Errorf("%s was %v and is %v", path, values, is[path])
		}
	}
}

func (b *bench) leaves(s *specs.Spec) map[string][]any {
	b.Helper()
	raw, err := json.Marshal(s)
	b.must(err)
	var document any
	b.must(json.Unmarshal(raw, &document))
	return fullspec.Leaves(document)
}
