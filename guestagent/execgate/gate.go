package execgate

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// depth of a container's own group below the root of the hierarchy.
const scopeLevel = 2

// Gate is one container's gate. Its programs judge from Load on, and nobody
// until Arm.
type Gate struct {
	policy *Policy
	coll   *ebpf.Collection
	links  []link.Link
	reader *ringbuf.Reader

	mu     sync.Mutex
	files  files
	group  uint64
	armed  bool
	closed bool

	records *queue
	// reading is closed when the kernel's buffer is not read any more.
	reading chan struct{}
}

// unneeded returns the programs that p has nothing to do for.
func unneeded(p *Policy) []string {
	var names []string
	if !p.has(Hide) {
		names = append(names, gateProgLookAtFile, gateProgUseFile)
	}
	if !p.has(ReadOnly) {
		names = append(names, gateProgMakeFile, gateProgRemoveFile, gateProgMakeSymlink, gateProgMakeFolder, gateProgRemoveFolder, gateProgMakeNode)
		if !p.hasArgs() {
			names = append(names, gateProgExecBegins, gateProgExecCommitted, gateProgTaskBegins)
		}
	}
	if p.UserNamespaces {
		names = append(names, gateProgMakeUserns)
	}
	if p.Mounts {
		names = append(names, gateProgMountPath, gateProgMountMoved, gateProgUnmountPath, gateProgPivot)
	}
	if p.Ptrace {
		names = append(names, gateProgTraceProcess)
	}
	return names
}

// Load puts the programs that p needs into the kernel. The container must not
// exist yet.
func Load(p *Policy) (_ *Gate, err error) {
	spec, err := loadGate()
	if err != nil {
		return nil, fmt.Errorf("exec gate: %w", err)
	}
	for _, name := range unneeded(p) {
		delete(spec.Programs, name)
	}
	if err := spec.Variables[gateVarScopeLevel].Set(uint32(scopeLevel)); err != nil {
		return nil, fmt.Errorf("exec gate: %w", err)
	}
	g := &Gate{policy: p, records: newQueue(), reading: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.Close())
		}
	}()
	if g.coll, err = ebpf.NewCollection(spec); err != nil {
		close(g.reading)
		return nil, fmt.Errorf("exec gate: load the programs: %w", err)
	}
	if g.reader, err = ringbuf.NewReader(g.coll.Maps[gateMapEvents]); err != nil {
		close(g.reading)
		return nil, fmt.Errorf("exec gate: read the decisions: %w", err)
	}
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

// Target is a container whose mounts exist and whose program has not started.
type Target struct {
	// Cgroup is the folder of the container's group.
	Cgroup string
	// Root is the container's root, open as a path.
	Root *os.File
}

// Arm finds the files that the rules are about and begins to judge what runs in
// the container's group.
func (g *Gate) Arm(t Target) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.armed || g.closed {
		return errors.New("exec gate: it is armed or closed already")
	}
	var group, root unix.Stat_t
	if err := unix.Stat(t.Cgroup, &group); err != nil {
		return fmt.Errorf("exec gate: examine the container's group %s: %w", t.Cgroup, err)
	}
	if err := unix.Fstat(int(t.Root.Fd()), &root); err != nil {
		return fmt.Errorf("exec gate: examine the container's root: %w", err)
	}
	found, err := container{root: int(t.Root.Fd())}.resolve(g.policy)
	if err != nil {
		return fmt.Errorf("exec gate: %w", err)
	}
	g.group = group.Ino
	id := uint32(0)
	for _, f := range found {
		id++
		if err := g.tell(f, id); err != nil {
			found.Close()
			return fmt.Errorf("exec gate: %s: %w", f.name, err)
		}
	}
	scope := g.scope(&root)
	if err := g.coll.Maps[gateMapScopes].Put(g.group, &scope); err != nil {
		found.Close()
		return fmt.Errorf("exec gate: arm: %w", err)
	}
	g.files, g.armed = found, true
	return nil
}

// tell has the kernel know the rules about f.
func (g *Gate) tell(f *file, id uint32) error {
	c, err := compile(g.policy, f.rules, id)
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
	s := gateScope{
		Mode:    [...]gateMode{Any: gateModeMODE_ANY, Image: gateModeMODE_IMAGE, Allowlist: gateModeMODE_ALLOWLIST}[g.policy.Mode],
		RootDev: kernelDev(root.Dev),
	}
	if t := g.policy.ImageTime; !t.IsZero() {
		s.ImageSec, s.ImageNsec = t.Unix(), uint32(t.Nanosecond())
	}
	for flag, on := range map[gateScopeFlag]bool{
		gateScopeFlagSCOPE_AUDIT:          g.policy.Audit,
		gateScopeFlagSCOPE_USERNS:         g.policy.UserNamespaces,
		gateScopeFlagSCOPE_MOUNT:          g.policy.Mounts,
		gateScopeFlagSCOPE_PTRACE:         g.policy.Ptrace,
		gateScopeFlagSCOPE_RECORD_ALLOWED: g.policy.RecordAllowed,
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
	g.files.Close()
	g.files = nil
	if err != nil {
		return fmt.Errorf("exec gate: disarm: %w", err)
	}
	return nil
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
		errs = append(errs, g.reader.Flush())
		<-g.reading
		errs = append(errs, g.reader.Close())
	}
	if g.coll != nil {
		g.coll.Close()
	}
	g.files.Close()
	g.records.close()
	return errors.Join(errs...)
}
