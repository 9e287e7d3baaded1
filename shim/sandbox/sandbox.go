// Package sandbox is one micro-VM with everything around it: the run
// directory, the network namespace, the share and its daemon, the VMM, and the
// connection to the agent. It is started and ended as a whole.
//
// It knows containers only as something to share files for; their life is
// package task. A VM holds one container under Docker, and those that join its
// network (--network container:X).
//
// However a part of it ends (the guest powers off, the VMM or virtiofsd is
// killed, the agent stops answering), Done is closed, once, and nothing is left
// after Close.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nanoclaw/nanoclaw/annotations"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/api/stream"
	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/internal/cleanup"
	"github.com/nanoclaw/nanoclaw/internal/program"
	"github.com/nanoclaw/nanoclaw/shim/audit"
	"github.com/nanoclaw/nanoclaw/shim/config"
	"github.com/nanoclaw/nanoclaw/shim/egress"
	"github.com/nanoclaw/nanoclaw/shim/guest"
	"github.com/nanoclaw/nanoclaw/shim/intercept"
	"github.com/nanoclaw/nanoclaw/shim/launch"
	"github.com/nanoclaw/nanoclaw/shim/network"
	"github.com/nanoclaw/nanoclaw/shim/share"
	"github.com/nanoclaw/nanoclaw/shim/vmcgroup"
)

// guestCID is every guest's vsock context id: the socket tells VMs apart.
const guestCID = 3

// goodbye is how long an orderly power-off may take.
const goodbye = 5 * time.Second

// aftermath is how much later than its virtiofsd a VM that ended first may be
// seen to have ended.
const aftermath = time.Second

// Options describe a sandbox.
type Options struct {
	// Namespace and ID name it on this host.
	Namespace, ID string
	// Bundle is the first container's folder; Destroy is told no more than it.
	Bundle     string
	Config     config.Config
	Hypervisor hypervisor.Hypervisor
	Launcher   *launch.Launcher
	// Spec is the first container's, for the sandbox's size and namespaces;
	// Policy is its policy.
	Spec   *specs.Spec
	Policy *annotations.Policy
	// Intercept answers the container's connections that have to be looked into;
	// nil: there are none.
	Intercept *intercept.Interceptor
	// Agent is the agent that the container runs as; empty: none.
	Agent string
	// Address is where the shim serves.
	Address string
	// Audit takes records of what the container does. It must not block.
	Audit func(audit.Entry)
}

// Timing says when the steps of a start were done: all was prepared, the VMM
// had told the guest's kernel to boot, the agent had called.
type Timing struct {
	Prepared, VMM, Agent time.Time
}

// Sandbox is a running VM. Its methods are safe for concurrent use.
type Sandbox struct {
	dir rundir
	ns  *network.Namespace
	net *network.Network
	// policy is that of the container that the VM was made for.
	policy *annotations.Policy
	// egress and teller are nil where there are no rules about the network.
	egress *egress.Egress
	teller *teller
	// intercepts: connections are looked into, for the first container alone.
	intercepts bool
	share      *share.Share
	vm         hypervisor.VM
	agent      *guest.Agent
	cgroup     *vmcgroup.Cgroup
	timing     Timing
	info       Info

	// ctx ends when the sandbox closes; what runs beside it runs under it.
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
	close  func() error

	// beside counts what runs beside the sandbox, in its network namespace.
	beside sync.WaitGroup

	// relaying says whether DNS questions are relayed.
	relaying atomic.Bool
	// following is done once changes of the network are followed.
	following sync.Once

	// growing is held while the VM is made larger, from first bytes of memory when it
	// was started, up to room.
	growing sync.Mutex
	first   int64
	room    hypervisor.Size

	mu sync.Mutex
	// users is how many containers are in the VM.
	users int
	// audits take records, each for its container, in the order of coming.
	audits []recorder
	// resolv is the host's file behind the container's resolv.conf.
	resolv   string
	reported error
	ended    End
	// shortage is what the host had too little of, once the VM has ended.
	shortage string
}

// Start starts a sandbox and waits for its agent. AddContainers is called with
// the share before the VM boots, so that a mount that is refused costs no VM.
// On an error nothing is left.
func Start(ctx context.Context, o Options, addContainers func(*share.Share) error) (_ *Sandbox, err error) {
	s := &Sandbox{
		dir:    newRundir(o.Config.RunDir, o.Namespace, o.ID),
		done:   make(chan struct{}),
		audits: []recorder{{o.ID, o.Audit}},
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	var undo cleanup.Stack
	defer func() {
		if err != nil {
			s.cancel()
			err = errors.Join(err, undo.Run())
		}
	}()

	if s.ns, err = openNamespace(o.Policy, o.Spec); err != nil {
		return nil, err
	}
	undo.Add("close network namespace", s.ns.Close)
	undo.Add("end what uses the network namespace", s.endBeside)
	identity, err := s.ns.Identity()
	if err != nil {
		return nil, err
	}
	cgroupPath := vmcgroup.Path(o.Spec.Linux.CgroupsPath, o.ID)
	if err := errors.Join(remember(o.Bundle, baseFile, o.Config.RunDir), remember(o.Bundle, cgroupFile, cgroupPath)); err != nil {
		return nil, err
	}
	s.info = Info{
		ID: o.ID, Namespace: o.Namespace, Address: o.Address, Cgroup: cgroupPath, Network: identity,
		Agent: o.Agent, Policy: o.Policy.Digest(), Mode: o.Policy.Mode,
		Hypervisor: o.Hypervisor.Name(), Isolates: o.Hypervisor.Isolates(),
		CPUs:   cpusFor(o.Spec, o.Config.DefaultCPUs, o.Hypervisor.Isolates(), runtime.NumCPU()),
		Memory: memoryFor(o.Spec, int64(o.Config.DefaultMemory), hostMemory()),
		Began:  time.Now(),
	}
	s.first = s.info.Memory
	s.room = room(hypervisor.Size{CPUs: s.info.CPUs, Memory: s.info.Memory}, s.info.Isolates)
	if err := s.dir.make(s.info); err != nil {
		return nil, err
	}
	// The record goes last: while something is left in the cgroup, "delete" needs it.
	undo.Add("remove cgroup and run directory", func() error { return s.dir.destroyWith(cgroupPath) })
	lock, err := s.dir.hold()
	if err != nil {
		return nil, err
	}
	undo.Add("unlock the run directory", lock.Close)

	if s.cgroup, err = vmcgroup.New(cgroupPath, s.info.Memory); err != nil {
		return nil, err
	}
	defer func() { err = s.explained(err) }()

	start := func(cmd *exec.Cmd) error { return o.Launcher.Start(cmd, s.ns, s.cgroup) }

	if s.share, err = share.New(string(s.dir), start); err != nil {
		return nil, err
	}
	undo.Add("close share", s.share.Close)
	if err := addContainers(s.share); err != nil {
		return nil, err
	}
	virtiofsd, err := program.Find(o.Config.Virtiofsd, o.Config.File, program.Virtiofsd...)
	if err != nil {
		return nil, err
	}
	if err := s.share.Serve(ctx, virtiofsd); err != nil {
		return nil, err
	}

	if err := s.openNetwork(ctx, o, &undo); err != nil {
		return nil, err
	}
	nic, err := s.net.NewNIC()
	if err != nil {
		return nil, err
	}

	listener, err := guest.Listen(hypervisor.VsockPath(string(s.dir)))
	if err != nil {
		return nil, err
	}
	undo.Add("close the agent's listener", listener.Close)
	s.timing.Prepared = time.Now()
	if s.vm, err = o.Hypervisor.Start(ctx, hypervisor.Config{
		ID:           o.ID,
		Dir:          string(s.dir),
		Kernel:       o.Config.Kernel,
		Image:        o.Config.Image,
		CPUs:         s.info.CPUs,
		Memory:       s.info.Memory,
		MaxCPUs:      s.room.CPUs,
		MaxMemory:    s.room.Memory,
		FSSocket:     s.share.Socket(),
		FSTag:        agent.ShareTag,
		CID:          guestCID,
		NICs:         []hypervisor.NIC{nic},
		Console:      s.dir.console(),
		StartProcess: start,
	}); err != nil {
		return nil, fmt.Errorf("start the virtual machine with %s: %w", s.info.Hypervisor, err)
	}
	undo.Add("stop the virtual machine", func() error {
		s.vm.Kill()
		<-s.vm.Done()
		return nil
	})
	s.timing.VMM = time.Now()
	if err := s.net.Booted(s.vm); err != nil {
		return nil, err
	}
	if err := s.awaitAgent(ctx, listener, time.Duration(o.Config.BootTimeout)); err != nil {
		return nil, err
	}
	undo.Add("close the agent's connection", s.agent.Close)
	s.timing.Agent = time.Now()
	if s.teller != nil {
		telling, stop := context.WithCancel(context.WithoutCancel(ctx))
		var told sync.WaitGroup
		told.Go(func() { s.teller.run(telling, s.agent.RPC().Unreached) })
		undo.Add("end telling the guest", func() error {
			stop()
			told.Wait()
			return nil
		})
	}

	s.close = sync.OnceValue(undo.Release().Run)
	s.users = 1
	go s.watch()
	return s, nil
}

// explained adds to an error what the host had too little of, where that is why. It
// must be asked while the cgroup is there.
func (s *Sandbox) explained(err error) error {
	if err == nil {
		return nil
	}
	if why := s.cgroup.Shortage(); why != "" {
		return fmt.Errorf("%s (%w)", why, err)
	}
	return err
}

func openNamespace(p *annotations.Policy, spec *specs.Spec) (*network.Namespace, error) {
	path := p.Network.Namespace
	if path == "" {
		return newNamespace(spec.Linux.Sysctl)
	}
	ns, err := network.OpenNamespace(path)
	isHost := errors.Is(err, network.ErrHostNamespace)
	if refused := p.CheckNetworkNamespace(path, isHost); refused != nil {
		if err == nil {
			_ = ns.Close()
		}
		return nil, refused
	}
	return ns, err
}

// newNamespace makes the namespace that the engine fills. Sysctls are the guest's
// matter, but for one: the engine looks here whether the container has IPv6, and
// gives it no addresses where it has none.
func newNamespace(sysctls map[string]string) (*network.Namespace, error) {
	ns, err := network.NewNamespace()
	if err != nil {
		return nil, err
	}
	for _, of := range []string{"all", "default", "lo"} {
		if sysctls["net.ipv6.conf."+of+".disable_ipv6"] != "1" {
			continue
		}
		if err := ns.DisableIPv6(of); err != nil {
			return nil, errors.Join(err, ns.Close())
		}
	}
	return ns, nil
}

// awaitAgent waits until the guest has booted, and says why where it does not.
func (s *Sandbox) awaitAgent(ctx context.Context, l *guest.Listener, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the guest did not boot within %s", limit))
	defer cancel()
	go func() {
		select {
		case <-s.vm.Done():
		case <-s.share.Done():
		case <-ctx.Done():
		}
		cancel()
	}()
	a, err := l.Accept(ctx, s.vm)
	if err == nil {
		s.agent = a
		return nil
	}
	if s.shareFailed() {
		return fmt.Errorf("the guest did not boot: %w", orEnded(s.share.Err()))
	}
	select {
	case <-s.vm.Done():
		e := s.vm.Exit()
		err = fmt.Errorf("the guest did not boot: %s", e.Cause)
		if e.Detail != "" {
			err = fmt.Errorf("%w: %s", err, e.Detail)
		}
	default:
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
	}
	if tail := hypervisor.ConsoleTail(s.dir.console(), hypervisor.ConsoleShown); tail != "" {
		return fmt.Errorf("%w; the end of its console:\n%s", err, tail)
	}
	return fmt.Errorf("%w; its console is empty: is the configured kernel one that this hypervisor can boot?", err)
}

// shareFailed reports whether virtiofsd has ended under its VM. It also ends
// after it, and may be seen to do so first.
func (s *Sandbox) shareFailed() bool {
	select {
	case <-s.share.Done():
	default:
		return false
	}
	select {
	case <-s.vm.Done():
		return false
	case <-time.After(aftermath):
		return true
	}
}

// watch ends the VM when a part of it has ended.
func (s *Sandbox) watch() {
	defer close(s.done)
	select {
	case <-s.vm.Done():
	case <-s.share.Done():
		if !s.shareFailed() {
			break
		}
		// The guest would hang in every file operation.
		s.report(EndShare, fmt.Errorf("the container's files are not served any more: %w", orEnded(s.share.Err())))
		s.vm.Kill()
	case <-s.agent.Lost():
		// An orderly power-off ends the connection first, then the VM.
		select {
		case <-s.vm.Done():
		case <-time.After(goodbye):
			s.report(EndAgent, guest.ErrLost)
			s.vm.Kill()
		}
	}
	<-s.vm.Done()
	s.mu.Lock()
	s.shortage = s.cgroup.Shortage()
	s.mu.Unlock()
	s.cancel()
}

func orEnded(err error) error {
	if err == nil {
		return errors.New("virtiofsd was stopped")
	}
	return err
}

func (s *Sandbox) report(what End, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reported == nil {
		s.ended, s.reported = what, err
	}
}

// Done is closed when the VM has ended and all its processes are gone.
func (s *Sandbox) Done() <-chan struct{} { return s.done }

// Cause says why the VM ended. It is valid after Done.
func (s *Sandbox) Cause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reported != nil {
		return s.reported
	}
	e := s.vm.Exit()
	err := errors.New(string(e.Cause))
	if e.Detail != "" {
		err = fmt.Errorf("%w: %s", err, e.Detail)
	}
	if s.shortage != "" {
		err = fmt.Errorf("%s (%w)", s.shortage, err)
	}
	return err
}

// LastWords is the end of the guest's console, for a log.
func (s *Sandbox) LastWords() string {
	return hypervisor.ConsoleTail(s.dir.console(), hypervisor.ConsoleLogged)
}

// PID is the VMM's process on the host, which lives in the container's network
// namespace.
func (s *Sandbox) PID() int { return s.vm.PID() }

// Agent is the guest's agent.
func (s *Sandbox) Agent() *guest.Agent { return s.agent }

// Share is the tree that the guest sees.
func (s *Sandbox) Share() *share.Share { return s.share }

// Timing says how long the start took.
func (s *Sandbox) Timing() Timing { return s.timing }

// Info says what kind of VM it is.
func (s *Sandbox) Info() Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.info
}

// Kill ends the VM by force. It does not wait.
func (s *Sandbox) Kill() { s.vm.Kill() }

// ID is the sandbox's, which is that of its first container.
func (s *Sandbox) ID() string { return s.info.ID }

// HasNetwork reports whether the network namespace at path is this sandbox's.
func (s *Sandbox) HasNetwork(path string) bool {
	id, err := network.Identify(path)
	return err == nil && id == s.info.Network
}

// Join counts one more container in the VM, that of the bundle. record takes
// records as Options.Audit does. It fails where the VM is ending.
func (s *Sandbox) Join(id, bundle string, record func(audit.Entry)) error {
	if err := errors.Join(remember(bundle, baseFile, filepath.Dir(string(s.dir))), remember(bundle, ownerFile, s.info.ID)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users == 0 {
		return errors.New("the virtual machine of the container whose network is to be joined is ending")
	}
	if !s.info.Shared {
		s.info.Shared = true
		if err := s.dir.write(s.info); err != nil {
			return err
		}
	}
	s.users++
	s.audits = append(s.audits, recorder{id, record})
	return nil
}

// Leave counts one container less. The last one ends the VM; of another one
// only its own files are taken away.
func (s *Sandbox) Leave(ctx context.Context, id string) error {
	if s.egress != nil {
		// As long as there is somebody under whom it can be recorded.
		s.egress.Look()
	}
	s.mu.Lock()
	s.users--
	s.audits = slices.DeleteFunc(s.audits, func(r recorder) bool { return r.id == id })
	last := s.users == 0
	s.mu.Unlock()
	if last {
		return s.Close(ctx)
	}
	_, err := s.agent.RPC().Delete(ctx, &agent.DeleteRequest{Container: id})
	if errors.Is(err, guest.ErrLost) || errdefs.IsNotFound(err) {
		// The VM has ended, or the container was never made.
		err = nil
	}
	return errors.Join(err, s.share.RemoveContainer(id), s.dir.forgetPolicy(id))
}

// Close ends the VM, in an orderly way where the guest helps, and removes all
// that belongs to it.
func (s *Sandbox) Close(ctx context.Context) error {
	select {
	case <-s.done:
	default:
		ctx, cancel := context.WithTimeout(ctx, goodbye)
		defer cancel()
		if _, err := s.agent.RPC().Shutdown(ctx, &agent.ShutdownRequest{}); err != nil && !errors.Is(err, guest.ErrLost) {
			log.G(ctx).WithError(err).Warn("the guest did not take the power-off; it is stopped")
		} else {
			select {
			case <-s.done:
			case <-ctx.Done():
				log.G(ctx).Warn("the guest did not power off in time; it is stopped")
			}
		}
	}
	return s.close()
}

// Wire joins the VM to what the network namespace has become, and returns what
// the guest shall configure. It is called for each container; those of one VM
// have one network. resolvConf is the container's file of that name on
// the host, empty where it has none. What changes later follows by itself.
func (s *Sandbox) Wire(ctx context.Context, resolvConf string) (*agent.NetworkState, error) {
	s.mu.Lock()
	if s.resolv == "" {
		s.resolv = resolvConf
	}
	s.mu.Unlock()
	state, err := s.net.Wire(ctx)
	if err != nil {
		return nil, err
	}
	if state.GetRelayDns() {
		if err := s.relayDNS(ctx); err != nil {
			return nil, err
		}
	}
	return state, s.follow()
}

// follow has changes of the network followed, once.
func (s *Sandbox) follow() error {
	var err error
	s.following.Do(func() {
		err = s.runBeside(func() {
			if err := s.net.Watch(s.ctx, s.apply); err != nil && s.ctx.Err() == nil {
				log.G(s.ctx).WithError(err).Error("network changes are not followed any more")
			}
		})
	})
	return err
}

// runBeside runs f, which ends with s.ctx, unless the sandbox has ended.
func (s *Sandbox) runBeside(f func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ctx.Err(); err != nil {
		return fmt.Errorf("the sandbox has ended: %w", err)
	}
	s.beside.Go(f)
	return nil
}

// endBeside ends all of them: a namespace's descriptor must not be closed, and
// its number be another file's, while one of them is about to enter it.
func (s *Sandbox) endBeside() error {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	s.beside.Wait()
	return nil
}

func (s *Sandbox) apply(state *agent.NetworkState) error {
	// A network with names may be connected later than at the start.
	if state.GetRelayDns() {
		if err := s.relayDNS(s.ctx); err != nil {
			return err
		}
	}
	_, err := s.agent.RPC().Network(s.ctx, &agent.NetworkRequest{Network: state})
	return err
}

func (s *Sandbox) relaysDNS() bool { return network.ResolvConfNeedsRelay(s.resolvConf()) }

// resolvConf is the content of the container's resolv.conf, as it is now; nil
// where that cannot be read.
func (s *Sandbox) resolvConf() []byte {
	s.mu.Lock()
	path := s.resolv
	s.mu.Unlock()
	if path == "" {
		return nil
	}
	content, err := network.ReadResolvConf(path)
	if err != nil {
		return nil
	}
	return content
}

// relayDNS opens the guest's way to the engine's resolver, once.
func (s *Sandbox) relayDNS(ctx context.Context) error {
	if !s.relaying.CompareAndSwap(false, true) {
		return nil
	}
	conn, err := s.agent.OpenStream(ctx, stream.Header{Kind: stream.DNS, ID: guest.NewStreamID()})
	if err != nil {
		s.relaying.Store(false)
		return err
	}
	if err := s.runBeside(func() {
		relay := func() error { return network.RelayDNS(s.ctx, s.ns, conn) }
		if s.egress != nil {
			relay = func() error { return network.RelayDNSTo(s.ctx, conn, s.egress.Answer) }
		}
		if err := relay(); err != nil && s.ctx.Err() == nil {
			log.G(s.ctx).WithError(err).Warn("the relay of DNS questions ended")
		}
	}); err != nil {
		return errors.Join(err, conn.Close())
	}
	return nil
}

// ResolvConf returns the host's file behind the container's /etc/resolv.conf,
// empty where it is the image's own.
func ResolvConf(spec *specs.Spec) string {
	i := slices.IndexFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/etc/resolv.conf" })
	if i < 0 {
		return ""
	}
	return spec.Mounts[i].Source
}

// Destroy ends and removes a sandbox whose shim is gone, without the guest's
// help, within the engine's five seconds, and says what it was. One that is not
// there is no error, and nil; nor is one whose shim lives on for containers that
// joined the one of that id.
func Destroy(bundle, namespace, id string) (*Info, error) {
	base, err := remembered(bundle, baseFile)
	if base == "" {
		return nil, err
	}
	owner, err := remembered(bundle, ownerFile)
	if err != nil {
		return nil, err
	}
	if owner == "" {
		owner = id
	}
	d := newRundir(base, namespace, owner)
	// There is one "delete" for each container, and the engine calls them at once.
	unlock, err := d.serialise()
	if err != nil {
		return nil, err
	}
	defer unlock()
	info, err := d.info()
	if err != nil {
		return nil, err
	}
	if info != nil && info.Shared && d.held() {
		return nil, nil
	}
	if info != nil {
		return info, d.destroyWith(info.Cgroup)
	}
	// One that joined another has no such note: without the record nobody knows
	// whether the other one lives.
	cgroup, err := remembered(bundle, cgroupFile)
	if err != nil {
		return nil, err
	}
	return nil, d.destroyWith(cgroup)
}
