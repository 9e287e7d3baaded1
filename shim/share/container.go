package share

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/internal/cleanup"
	"github.com/nanoclaw/nanoclaw/shim/hidefs"
)

// Decided is told of each bind mount that a policy judged, as it is mounted, with
// the refusal where it is not; would is one that the policy's mode did not carry
// out.
type Decided func(m annotations.Mount, refused, would error)

// AddContainer puts the root file system at rootfs, an absolute path, and the
// bind mounts of spec into the tree, as far as policy allows each, and returns
// the spec for the guest: root and bind sources name places below
// agent.ShareDir. Other mounts, and all else in the spec, stay as they are; spec
// itself is not changed. decided is told of each bind mount. On an error nothing of
// the container is left.
func (s *Share) AddContainer(ctx context.Context, id string, spec *specs.Spec, policy *annotations.Policy, rootfs string, decided Decided) (_ *specs.Spec, err error) {
	if !validID.MatchString(id) {
		return nil, fmt.Errorf("%q cannot be a container's id", id)
	}
	if spec.Root == nil {
		return nil, fmt.Errorf("the OCI spec of container %s has no root", id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.New("the share is closed")
	}
	if s.containers[id] != nil {
		return nil, fmt.Errorf("container %s is in the share already", id)
	}
	var undo cleanup.Stack
	defer func() {
		if err != nil {
			err = errors.Join(err, undo.Run())
		}
	}()
	host, err := look(s.dir, policy)
	if err != nil {
		return nil, err
	}
	a := &adder{Share: s, id: id, host: host, policy: policy.OnHost(canonical, images), undo: &undo, decided: decided}
	out := *spec
	for _, folder := range []string{id, path.Join(id, "mounts")} {
		if err := a.folder(folder); err != nil {
			return nil, err
		}
	}
	root := *spec.Root
	if root.Path, err = a.addRootfs(spec, rootfs); err != nil {
		return nil, err
	}
	out.Root = &root
	out.Mounts = slices.Clone(spec.Mounts)
	for i, m := range out.Mounts {
		if out.Mounts[i], err = a.addMount(ctx, i, m); err != nil {
			return nil, err
		}
	}
	s.containers[id] = undo.Release()
	return &out, nil
}

// RemoveContainer takes a container out of the tree. One that is not there is no
// error.
func (s *Share) RemoveContainer(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[id]
	if c == nil {
		return nil
	}
	delete(s.containers, id)
	return c.Run()
}

// adder adds one container; the share's lock is held.
type adder struct {
	*Share
	id     string
	host   *host
	policy *annotations.Policy
	undo   *cleanup.Stack
	// decided is told of the bind mounts.
	decided Decided
}

// folder makes a folder of the skeleton that is removed with the container.
func (a *adder) folder(name string) error {
	if err := a.mkdir(name); err != nil {
		return err
	}
	a.undo.Add("remove "+name+" from the share", func() error { return a.remove(name, unix.AT_REMOVEDIR) })
	return nil
}

// place makes a mount point of the skeleton, a folder or a file.
func (a *adder) place(name string, kind annotations.Kind) error {
	if kind == annotations.KindDir {
		return a.folder(name)
	}
	if err := a.mkfile(name); err != nil {
		return err
	}
	a.undo.Add("remove "+name+" from the share", func() error { return a.remove(name, 0) })
	return nil
}

// mount mounts src at name in the tree.
func (a *adder) mount(src *source, name string, h how) error {
	if err := a.place(name, src.Kind); err != nil {
		return err
	}
	tree, err := clone(src.file, h)
	if err != nil {
		return err
	}
	defer closeQuietly(tree)
	return a.attach(tree, name)
}

// attach attaches a mount at a place of the tree.
func (a *adder) attach(tree *os.File, name string) error {
	target, err := a.target(name)
	if err != nil {
		return err
	}
	defer closeQuietly(target)
	if err := attach(tree, target); err != nil {
		return err
	}
	where := path.Join(a.dir, name)
	a.undo.Add("unmount "+where, func() error { return plain(unix.Unmount(where, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)) })
	return nil
}

// mountWithout mounts src as mount does, without what is hidden below the
// container's name for it.
func (a *adder) mountWithout(hidden []string, src *source, name, destination string, h how) error {
	if err := a.place(name, src.Kind); err != nil {
		return err
	}
	folder, err := clone(src.file, h)
	if err != nil {
		return err
	}
	defer closeQuietly(folder)
	attr := uint64(confined)
	if h.readonly {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	tree, p, err := hidefs.Mount(hidefs.View{
		Folder: folder, Destination: destination, Patterns: hidden, Attributes: attr, Place: path.Join(a.dir, name),
	}, a.start)
	if err != nil {
		return fmt.Errorf("hide names in it: %w", err)
	}
	defer closeQuietly(tree)
	var asked atomic.Bool
	a.undo.Add("end the process that hides names", func() error {
		asked.Store(true)
		<-p.Killed()
		return nil
	})
	go func() {
		<-p.Done()
		if !asked.Load() {
			a.fail(p.Failure())
		}
	}()
	return a.attach(tree, name)
}

func (a *adder) addRootfs(spec *specs.Spec, rootfs string) (string, error) {
	src, err := a.host.resolve(rootfs)
	if err != nil {
		return "", fmt.Errorf("root file system: %w", err)
	}
	defer closeQuietly(src.file)
	if err := a.policy.CheckRootfs(src.Source); err != nil {
		return "", err
	}
	if spec.Root.Readonly {
		// From inside, they could not be made any more.
		if err := makeMountPoints(src.file, spec); err != nil {
			return "", err
		}
	}
	name := path.Join(a.id, "rootfs")
	return path.Join(agent.ShareDir, name), a.mount(src, name, how{recursive: true, readonly: spec.Root.Readonly})
}

// guestTypes are the mounts that the guest makes by itself, from nothing of the
// host's.
var guestTypes = []string{"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"}

func (a *adder) addMount(ctx context.Context, n int, m specs.Mount) (specs.Mount, error) {
	if !annotations.IsBind(m) {
		if !slices.Contains(guestTypes, m.Type) {
			return m, fmt.Errorf("the mount at %q is of type %q, which cannot be made inside the VM; let the engine mount it, as a volume", m.Destination, m.Type)
		}
		return m, nil
	}
	src, err := a.host.resolve(m.Source)
	if err != nil {
		return m, fmt.Errorf("mount at %q: %w", m.Destination, err)
	}
	defer closeQuietly(src.file)

	h, err := options(m)
	if err != nil {
		return m, err
	}
	if !h.recursive {
		src.Inside = nil
	}
	var hidden []string
	if src.Kind == annotations.KindDir {
		hidden = a.policy.Hidden(m.Destination)
	}
	asked := annotations.Mount{Destination: m.Destination, ReadOnly: h.readonly, Source: src.Source}
	admitted, err := a.policy.Admit(asked)
	if err != nil {
		a.decided(asked, err, nil)
		return m, err
	}
	h.readonly = h.readonly || admitted.ReadOnly
	asked.ReadOnly = h.readonly
	a.decided(asked, nil, admitted.Would)
	if h.slave && (h.readonly || !src.follows) {
		return m, fmt.Errorf("the mount %q -> %q asks for propagation from the host, which needs a writable mount of a source that is a shared or slave mount; remove rslave", m.Source, m.Destination)
	}
	if h.slave && hidden != nil {
		return m, fmt.Errorf("the mount %q -> %q asks for propagation from the host, which a mount with hidden names (mounts.hide) cannot have; remove rslave", m.Source, m.Destination)
	}
	if h.readonly && !slices.Contains(m.Options, "ro") {
		m.Options = append(slices.Clone(m.Options), "ro")
	}
	switch {
	case annotations.HarmlessDevice(src.Source):
		// The guest's own. Sharing the host's would let a chmod inside the
		// container reach the host's /dev.
		m.Source = path.Join("/dev", annotations.DeviceName(src.Source))
		return m, nil
	case a.policy.EngineShm(src.Path):
		return sharedMemory(src, m)
	}
	name := path.Join(a.id, "mounts", strconv.Itoa(n))
	if hidden != nil {
		err = a.mountWithout(hidden, src, name, m.Destination, h)
	} else {
		err = a.mount(src, name, h)
	}
	if err != nil {
		return m, fmt.Errorf("mount at %q: %w", m.Destination, err)
	}
	log.G(ctx).WithFields(log.Fields{
		"source": src.Path, "destination": m.Destination, "readonly": h.readonly,
	}).Debug("shared a mount")
	m.Source = path.Join(agent.ShareDir, name)
	return m, nil
}

// sharedMemory replaces the engine's folder for /dev/shm by memory of the VM's,
// of the same size.
func sharedMemory(src *source, m specs.Mount) (specs.Mount, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(src.file.Fd()), &st); err != nil {
		return m, fmt.Errorf("measure the engine's shared memory: %w", plain(err))
	}
	return specs.Mount{
		Destination: m.Destination, Type: "tmpfs", Source: "shm",
		Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + strconv.FormatUint(st.Blocks*uint64(st.Bsize), 10)},
	}, nil
}

// options reads from a bind mount's options how it is to be made. Where they
// contradict each other, the narrower one counts.
func options(m specs.Mount) (how, error) {
	var h how
	for _, o := range m.Options {
		switch o {
		case "rbind":
			h.recursive = true
		case "ro", "rro":
			h.readonly = true
		case "slave", "rslave":
			h.slave = true
		case "shared", "rshared":
			return h, fmt.Errorf("the mount %q -> %q asks for propagation %q, but what is mounted inside the VM cannot appear on the host; use rslave or rprivate", m.Source, m.Destination, o)
		}
	}
	return h, nil
}
