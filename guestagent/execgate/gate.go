package execgate

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/guestagent/cgroup"
	"golang.org/x/sys/unix"
)

const (
	// containers is the parent of every container's group.
	containers = cgroup.Root + "/containers"
	// scopeLevel is how deep a container's own group is below the root.
	scopeLevel = 2
)

// Gate is one container's gate. Its programs judge from Load on, and nobody
// until Arm.
type Gate struct {
	policy *Policy
	seen   func(*agent.Decision, Reason)
	coll   *ebpf.Collection
	links  []link.Link
	reader ring

	mu sync.Mutex
	// root is the armed container's.
	root   *os.File
	files  files
	group  uint64
	armed  bool
	closed bool

	records *queue
	// allowed belongs to whoever reads.
	allowed  once
	barriers barriers
	// reading is closed when the kernel's buffer is not read any more.
	reading chan struct{}
}

// unneeded returns the programs that p has nothing to do for.
func unneeded(p *Policy) []string {
	var names []string
	readonly, args := p.has(ReadOnly), p.hasArgv()
	for _, part := range []struct {
		unneeded bool
		programs []string
	}{
		{!p.has(Hide), []string{gateProgLookAtFile, gateProgUseFile, gateProgGetXattr, gateProgListXattrs}},
		{!readonly, []string{
			gateProgMakeFile, gateProgRemoveFile, gateProgMakeSymlink, gateProgMakeFolder, gateProgRemoveFolder, gateProgMakeNode,
		}},
		{!readonly && !args, []string{gateProgExecBegins, gateProgExecCommitted, gateProgTaskBegins}},
		{len(p.Rules) == 0, []string{gateProgControlFile}},
		{p.UserNamespaces, []string{gateProgMakeUserns}},
		{p.Mounts && !readonly, []string{gateProgMountPath, gateProgMountMoved, gateProgUnmountPath, gateProgPivot, gateProgUseCapability}},
	} {
		if part.unneeded {
			names = append(names, part.programs...)
		}
	}
	return names
}

// Load puts the programs that p needs into the kernel. The container must not
// exist yet. seen, unless it is nil, is called with each decision and why it
// was made, and must not wait.
func Load(p *Policy, seen func(*agent.Decision, Reason)) (_ *Gate, err error) {
	spec, err := loadGate()
	if err != nil {
		return nil, fmt.Errorf("exec gate: %w", err)
	}
	for _, name := range unneeded(p) {
		delete(spec.Programs, name)
	}
	var all unix.Stat_t
	if err := unix.Stat(containers, &all); err != nil {
		return nil, fmt.Errorf("exec gate: examine the containers' group %s: %w", containers, err)
	}
	if err := errors.Join(
		spec.Variables[gateVarScopeLevel].Set(uint32(scopeLevel)),
		spec.Variables[gateVarContainersGroup].Set(all.Ino),
	); err != nil {
		return nil, fmt.Errorf("exec gate: %w", err)
	}
	g := &Gate{policy: p, seen: seen, records: newQueue(), allowed: once{}, reading: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.Close())
		}
	}()
	if g.coll, err = ebpf.NewCollection(spec); err != nil {
		close(g.reading)
		return nil, fmt.Errorf("exec gate: load the programs: %w", err)
	}
	reader, err := ringbuf.NewReader(g.coll.Maps[gateMapEvents])
	if err != nil {
		close(g.reading)
		return nil, fmt.Errorf("exec gate: read the decisions: %w", err)
	}
	g.reader = reader
	go g.read()
	for name, program := range g.coll.Programs {
		l, err := link.AttachLSM(link.LSMOptions{Program: program})
		if err != nil {
			return nil, fmt.Errorf("exec gate: attach %s: %w", name, err)
		}
		g.links = append(g.links, l)
	}
	return g, nil
}

// Arm finds the files that the rules are about and begins to judge what runs in
// the container's group, whose folder is given. The container's mounts exist,
// and its program has not started; pid is the process that will become it.
func (g *Gate) Arm(cgroup string, pid int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.armed || g.closed {
		return errors.New("exec gate: it is armed or closed already")
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("exec gate: open the root of process %d: %w", pid, err)
	}
	root := os.NewFile(uintptr(fd), "the container's root")
	if err := g.arm(cgroup, root); err != nil {
		return errors.Join(fmt.Errorf("exec gate: %w", err), root.Close())
	}
	return nil
}

func (g *Gate) arm(cgroup string, dir *os.File) error {
	var group, root unix.Stat_t
	if err := unix.Stat(cgroup, &group); err != nil {
		return fmt.Errorf("examine the container's group %s: %w", cgroup, err)
	}
	if err := unix.Fstat(int(dir.Fd()), &root); err != nil {
		return fmt.Errorf("examine the container's root: %w", err)
	}
	found, err := container{root: int(dir.Fd())}.resolve(g.policy)
	if err != nil {
		return err
	}
	g.group = group.Ino
	id := uint32(0)
	for _, f := range found {
		id++
		if err := g.tell(f, id); err != nil {
			found.Close()
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	scope := g.scope(&root)
	if err := g.coll.Maps[gateMapScopes].Put(g.group, &scope); err != nil {
		found.Close()
		return fmt.Errorf("begin: %w", err)
	}
	g.root, g.files, g.armed = dir, found, true
	return nil
}

// tell has the kernel know the rules about f.
func (g *Gate) tell(f *file, id uint32) error {
	c, err := compile(g.policy, f.rules, f.trusted, id)
	if err != nil {
		return err
	}
	c.label.Scope = g.group
	for h, bit := range c.words {
		if err := g.coll.Maps[gateMapWords].Put(&gateWord{Hash: h, Args: id}, bit); err != nil {
			return fmt.Errorf("note the words of its rules: %w", err)
		}
	}
	if c.set != nil {
		if err := g.coll.Maps[gateMapArgsets].Put(id, c.set); err != nil {
			return fmt.Errorf("note its rules about arguments: %w", err)
		}
	}
	fd := int32(f.held.Fd())
	// Another container of this VM may have rules about a file that both share.
	if err := g.coll.Maps[gateMapLabels].Update(fd, &c.label, ebpf.UpdateNoExist); err != nil {
		return fmt.Errorf("label it: %w", err)
	}
	return nil
}

func (g *Gate) scope(root *unix.Stat_t) gateScope {
	p := g.policy
	s := gateScope{RootDev: kernelDev(root.Dev)}
	if t := p.ImageTime; !t.IsZero() {
		s.ImageSec, s.ImageNsec = t.Unix(), uint32(t.Nanosecond())
	}
	for i := range p.Lists {
		if p.Lists[i].Would {
			s.ListsWould |= 1 << i
		} else {
			s.Lists |= 1 << i
		}
	}
	for flag, on := range map[gateScopeFlag]bool{
		gateScopeFlagSCOPE_IMAGE:          p.Image != nil && !p.Image.Would,
		gateScopeFlagSCOPE_IMAGE_WOULD:    p.Image != nil && p.Image.Would,
		gateScopeFlagSCOPE_USERNS:         p.UserNamespaces,
		gateScopeFlagSCOPE_MOUNT:          p.Mounts,
		gateScopeFlagSCOPE_PTRACE:         p.Ptrace,
		gateScopeFlagSCOPE_RECORD_ALLOWED: p.RecordAllowed,
		gateScopeFlagSCOPE_WOULD:          p.records(),
	} {
		if on {
			s.Flags |= uint32(flag)
		}
	}
	return s
}

// kernelDev is a device number as the kernel keeps it, of one as it tells it.
func kernelDev(dev uint64) uint32 { return unix.Major(dev)<<20 | unix.Minor(dev) }

// Disarm forgets the container, which must be gone. The gate can be armed for
// another one then.
func (g *Gate) Disarm() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.disarm()
}

func (g *Gate) disarm() error {
	if !g.armed {
		return nil
	}
	g.armed = false
	err := g.coll.Maps[gateMapScopes].Delete(g.group)
	for _, f := range g.files {
		fd := int32(f.held.Fd())
		err = errors.Join(err, g.coll.Maps[gateMapLabels].Delete(fd))
	}
	g.forget()
	if err != nil {
		return fmt.Errorf("exec gate: disarm: %w", err)
	}
	return nil
}

func (g *Gate) forget() {
	g.files.Close()
	g.files = nil
	if g.root != nil {
		_ = g.root.Close()
		g.root = nil
	}
}

// Close takes the gate away. Nothing of the container may run any more.
func (g *Gate) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	g.closed = true
	var errs []error
	for _, l := range g.links {
		errs = append(errs, l.Close())
	}
	if g.reader != nil {
		// What was decided is told, also at the end.
		g.Settle()
		errs = append(errs, g.reader.Close())
		<-g.reading
	}
	if g.coll != nil {
		g.coll.Close()
	}
	g.forget()
	g.records.close()
	return errors.Join(errs...)
}
