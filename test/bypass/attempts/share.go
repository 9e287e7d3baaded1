package attempts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Shared is for attempts that are made in the VM's initial namespaces, as root with every
// capability, on the share as virtiofsd serves it, as if the guest's kernel had
// let go of every container.
const Shared Policy = "share"

// ShareRoot is where the share is mounted in the VM, ShareTag its tag.
const (
	ShareRoot = "/share"
	ShareTag  = "nanoclaw"
)

// The mounts of the container "c" in the share: one in which ShareHidden hide
// names, at ShareDestination, and one that is read-only.
const (
	hiding   = ShareRoot + "/c/mounts/0"
	readOnly = ShareRoot + "/c/mounts/1"

	ShareDestination = "/w"
)

// ShareNested is a folder of the read-only mount where the host has mounted
// something else.
const ShareNested = "nested"

// ShareHidden are the patterns of what is hidden. The kernel may show the other
// mount to who asks for the share once more, so they are about both.
var ShareHidden = []string{"/w/*/.env*", "/w/*/a/secret", "/w/**/key", "/ro/*/a/secret"}

// Secret is the content of each file that is hidden, or that lies outside.
const Secret = "the secret of the host"

// ShareWorld makes the files of every attempt on the share in a folder of the
// host, each attempt's in a folder of its own. outside is a file that is not
// shared.
func ShareWorld(dir, outside string) error {
	for _, a := range all {
		if a.Policy != Shared {
			continue
		}
		at := filepath.Join(dir, a.Name)
		for _, name := range []string{".env", "a/secret", "deep/er/key", "a/open", "b/open", "plain"} {
			content := Secret
			if b := filepath.Base(name); b == "open" || b == "plain" {
				content = "open"
			}
			if err := os.MkdirAll(filepath.Dir(filepath.Join(at, name)), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(at, name), []byte(content), 0o644); err != nil { //nolint:gosec // anybody's
				return err
			}
		}
		if err := os.Symlink(outside, filepath.Join(at, "out")); err != nil {
			return err
		}
	}
	return nil
}

// Try makes an attempt in this process.
func (a Attempt) Try() error { return a.run() }

func init() {
	onShare := func(mount string, list map[string]func(dir string) error) map[string]func() error {
		tries := make(map[string]func() error, len(list))
		for name, try := range list {
			tries[name] = func() error { return try(filepath.Join(mount, name)) }
		}
		return tries
	}
	const hidden = "what is hidden below a mount is not there, and cannot be made, moved or uncovered"
	add(Shared, hidden, onShare(hiding, map[string]func(string) error{
		"share-open":             func(d string) error { return secret(d + "/.env") },
		"share-deep":             func(d string) error { return secret(d + "/deep/er/key") },
		"share-listing":          listed,
		"share-o-path":           func(d string) error { return throughFD(d+"/a", "secret") },
		"share-dot-dot":          func(d string) error { return secret(d + "/b/../a/../.env") },
		"share-symlink":          func(d string) error { return after(unix.Symlink(".env", d+"/l"), d+"/l") },
		"share-symlinked-folder": func(d string) error { return after(unix.Symlink("../a", d+"/b/l"), d+"/b/l/secret") },
		"share-hard-link":        func(d string) error { return after(unix.Link(d+"/a/secret", d+"/l"), d+"/l") },
		"share-rename":           func(d string) error { return after(unix.Rename(d+"/.env", d+"/seen"), d+"/seen") },
		"share-rename-parent":    func(d string) error { return after(unix.Rename(d+"/a", d+"/z"), d+"/z/secret") },
		"share-rename-up":        func(d string) error { return after(unix.Rename(d+"/a", hiding+"/up"), hiding+"/up/secret") },
		"share-exchange": func(d string) error {
			return after(unix.Renameat2(unix.AT_FDCWD, d+"/a", unix.AT_FDCWD, d+"/b", unix.RENAME_EXCHANGE), d+"/b/secret")
		},
		"share-chroot":       func(d string) error { return chrooted(d, "/.env") },
		"share-bind":         func(d string) error { return bound(d+"/a", "secret", 0) },
		"share-remounted":    func(d string) error { return bound(d, ".env", unix.MS_REMOUNT|unix.MS_BIND) },
		"share-second-mount": func(d string) error { return secondMount(strings.TrimPrefix(d, hiding), "/a/secret") },
		"share-overlay":      overlaid,
		"share-umount":       func(d string) error { return uncovered(d + "/a/secret") },
		"share-uring": func(d string) error {
			fd, err := uringOpen(d+"/a/secret", unix.O_RDONLY)
			if err == nil {
				err = unix.Close(fd)
			}
			return err
		},
		"share-handle":        byHandle,
		"share-remove":        func(d string) error { return unix.Unlink(d + "/.env") },
		"share-create":        func(d string) error { return openFor(d+"/.env.mine", unix.O_WRONLY|unix.O_CREAT) },
		"share-link-there":    func(d string) error { return unix.Link(d+"/plain", d+"/.env.mine") },
		"share-move-there":    func(d string) error { return unix.Rename(d+"/plain", d+"/.env") },
		"share-stat":          func(d string) error { return unix.Lstat(d+"/.env", &unix.Stat_t{}) },
		"share-xattr":         func(d string) error { return none(unix.Getxattr(d+"/.env", "user.none", nil)) },
		"share-open-tree":     cloned,
		"share-mkdir-there":   func(d string) error { return unix.Mkdir(d+"/.env.d", 0o755) },
		"share-symlink-there": func(d string) error { return unix.Symlink("plain", d+"/.env.l") },
		"share-node-there":    func(d string) error { return unix.Mknod(d+"/.env.n", unix.S_IFREG|0o600, 0) },
		"share-later-deep": func(d string) error {
			if err := os.MkdirAll(d+"/deep/later", 0o755); err != nil {
				return err
			}
			return openFor(d+"/deep/later/key", unix.O_WRONLY|unix.O_CREAT)
		},
		"share-uring-remove":  func(d string) error { _, err := byURing(opUnlinkat, unix.AT_FDCWD, d+"/.env", 0, 0, 0); return err },
		"share-race-exchange": raceExchange,
		"share-race-bind":     raceBind,
	}))
	const forced = "a read-only mount is read-only, whatever the guest remounts"
	add(Shared, forced, onShare(readOnly, map[string]func(string) error{
		"share-ro-write":    func(d string) error { return openFor(d+"/plain", unix.O_WRONLY) },
		"share-ro-create":   func(d string) error { return openFor(d+"/new", unix.O_WRONLY|unix.O_CREAT) },
		"share-ro-unlink":   func(d string) error { return unix.Unlink(d + "/plain") },
		"share-ro-rename":   func(d string) error { return unix.Rename(d+"/plain", d+"/moved") },
		"share-ro-link":     func(d string) error { return unix.Link(d+"/plain", d+"/linked") },
		"share-ro-chmod":    func(d string) error { return unix.Chmod(d+"/plain", 0o777) },
		"share-ro-mkdir":    func(d string) error { return unix.Mkdir(d+"/dir", 0o755) },
		"share-ro-symlink":  func(d string) error { return unix.Symlink("plain", d+"/l") },
		"share-ro-truncate": func(d string) error { return unix.Truncate(d+"/plain", 0) },
		"share-ro-times":    func(d string) error { return os.Chtimes(d+"/plain", time.Unix(1, 0), time.Unix(1, 0)) },
		"share-ro-owner":    func(d string) error { return os.Lchown(d+"/plain", 1, 1) },
		"share-ro-exchange": func(d string) error {
			return unix.Renameat2(unix.AT_FDCWD, d+"/a", unix.AT_FDCWD, d+"/b", unix.RENAME_EXCHANGE)
		},
		"share-ro-uring": func(d string) error { _, err := uringOpen(d+"/plain", unix.O_WRONLY); return err },
		// After the second mount, of which the kernel would show this one.
		"share-under-ro":   func(string) error { return openFor(readOnly+"/"+ShareNested+"/new", unix.O_WRONLY|unix.O_CREAT) },
		"share-ro-remount": func(d string) error { return remounted(readOnly, d+"/plain") },
		"share-ro-bind": func(d string) error {
			if err := mountOn(d, "/run/ro-bind", unix.MS_BIND); err != nil {
				return err
			}
			return remounted("/run/ro-bind", "/run/ro-bind/plain")
		},
		"share-ro-setattr": func(d string) error {
			attr := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
			if err := unix.MountSetattr(unix.AT_FDCWD, readOnly, 0, &attr); err != nil {
				return err
			}
			return openFor(d+"/plain", unix.O_WRONLY)
		},
		"share-ro-fd": func(d string) error {
			fd, err := unix.Open(d+"/plain", unix.O_PATH, 0)
			if err != nil {
				return err
			}
			defer func() { _ = unix.Close(fd) }()
			return openFor("/proc/self/fd/"+strconv.Itoa(fd), unix.O_WRONLY)
		},
	}))
	const outside = "nothing outside of what is shared is reached"
	addKernel(Shared, outside, onShare(hiding, map[string]func(string) error{
		"share-out-symlink": func(d string) error { return secret(d + "/out") },
		"share-out-dot-dot": func(d string) error { return throughFD(d, "../../../../../../../../../etc/shadow") },
		"share-skeleton":    func(string) error { return openFor(ShareRoot+"/c/mounts/new", unix.O_WRONLY|unix.O_CREAT) },
	}))
}

// secret is nil where a file has what is to be kept from the VM.
func secret(name string) error {
	got, err := os.ReadFile(name)
	if err == nil && string(got) != Secret {
		err = fmt.Errorf("it reads %.40q", got)
	}
	return err
}

func after(err error, name string) error {
	if err != nil {
		return err
	}
	return secret(name)
}

func listed(dir string) error {
	for _, d := range []string{dir, dir + "/a", dir + "/deep/er"} {
		entries, err := os.ReadDir(d)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Name() == ".env" || e.Name() == "secret" || e.Name() == "key" {
				return nil
			}
		}
	}
	return errors.New("no listing has it")
}

func throughFD(dir, name string) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := secret("/proc/self/fd/" + strconv.Itoa(fd) + "/" + name); err == nil {
		return nil
	}
	in, err := unix.Openat(fd, name, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(in) }()
	return secret("/proc/self/fd/" + strconv.Itoa(in))
}

func mountOn(from, to string, flags uintptr) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	return unix.Mount(from, to, "", flags, "")
}

func bound(dir, name string, again uintptr) error {
	at := "/run/bound-" + filepath.Base(filepath.Dir(dir)) + filepath.Base(dir)
	if err := mountOn(dir, at, unix.MS_BIND|unix.MS_REC); err != nil {
		return err
	}
	defer func() { _ = unix.Unmount(at, unix.MNT_DETACH) }()
	if again != 0 {
		if err := unix.Mount("", at, "", again, ""); err != nil {
			return err
		}
	}
	return secret(at + "/" + name)
}

// chrooted asks as a process does whose root is dir.
func chrooted(dir, name string) error {
	root, err := unix.Open("/", unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(root) }()
	if err := unix.Chroot(dir); err != nil {
		return err
	}
	err = secret(name)
	return errors.Join(err, unix.Fchdir(root), unix.Chroot("."))
}

// secondMount mounts the share once more and looks for a file everywhere in it:
// the kernel may show any part of the share.
func secondMount(below ...string) error {
	const at = "/run/again"
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(ShareTag, at, "virtiofs", 0, ""); err != nil {
		return err
	}
	defer func() { _ = unix.Unmount(at, unix.MNT_DETACH) }()
	for _, top := range []string{at, at + "/c/mounts/0", at + "/mounts/0"} {
		if secret(top+strings.Join(below, "")) == nil {
			return nil
		}
	}
	return fs.ErrNotExist
}

// cloned looks at a copy of the mount that is attached nowhere.
func cloned(dir string) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return secret("/proc/self/fd/" + strconv.Itoa(fd) + "/.env")
}

func overlaid(dir string) error {
	for _, d := range []string{"/run/empty", "/run/overlay"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("overlay", "/run/overlay", "overlay", 0, "lowerdir="+dir+":/run/empty"); err != nil {
		return err
	}
	defer func() { _ = unix.Unmount("/run/overlay", unix.MNT_DETACH) }()
	return secret("/run/overlay/.env")
}

// uncovered takes away whatever is mounted over what is shared, as often as
// there is something.
func uncovered(name string) error {
	for range 3 {
		_ = unix.Unmount(hiding, 0)
		if secret(name) == nil {
			return nil
		}
	}
	return secret(name)
}

func remounted(at, name string) error {
	for _, flags := range []uintptr{unix.MS_REMOUNT, unix.MS_REMOUNT | unix.MS_BIND} {
		if err := unix.Mount("", at, "", flags, ""); err != nil {
			return err
		}
	}
	return openFor(name, unix.O_WRONLY)
}

// byHandle has the kernel open files by number, of all numbers near that of one
// which is seen. A kernel that gives no handles is looked at by inode number
// alone.
func byHandle(dir string) error {
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, dir+"/a", 0)
	if err != nil {
		return secret(dir + "/a/secret")
	}
	fd, err := unix.Open(filepath.Dir(dir), unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	bytes := handle.Bytes()
	for node := range 4096 {
		// A node's number stands first, its generation after it.
		copy(bytes, []byte{byte(node), byte(node >> 8), 0, 0, 0, 0, 0, 0})
		got, err := unix.OpenByHandleAt(fd, unix.NewFileHandle(handle.Type(), bytes), unix.O_RDONLY)
		if err != nil {
			continue
		}
		err = secret("/proc/self/fd/" + strconv.Itoa(got))
		_ = unix.Close(got)
		if err == nil {
			return nil
		}
	}
	return secret(dir + "/a/secret")
}

// raceExchange exchanges folders, files and links at the place of one that holds
// something hidden while it is opened.
func raceExchange(dir string) error {
	_ = unix.Symlink("b", dir+"/l")
	exchange := func(x, y string) func() {
		return func() { _ = unix.Renameat2(unix.AT_FDCWD, dir+x, unix.AT_FDCWD, dir+y, unix.RENAME_EXCHANGE) }
	}
	return race(func() error {
		for _, name := range []string{"/a/secret", "/b/secret", "/l/secret", "/plain/secret"} {
			if secret(dir+name) == nil {
				return nil
			}
		}
		return fs.ErrNotExist
	}, exchange("/l", "/a"), exchange("/b", "/plain"), exchange("/a", "/b"), exchange("/a", "/plain"))
}

// raceBind mounts the folder elsewhere, and back over itself, while it is
// opened.
func raceBind(dir string) error {
	const at = "/run/race"
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	return race(func() error {
		if secret(at+"/secret") == nil || secret(dir+"/b/secret") == nil {
			return nil
		}
		return fs.ErrNotExist
	},
		func() { _ = unix.Mount(dir+"/a", at, "", unix.MS_BIND, "") },
		func() { _ = unix.Mount(at, dir+"/b", "", unix.MS_BIND, "") },
		func() { _ = unix.Unmount(dir+"/b", unix.MNT_DETACH) },
		func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
}
