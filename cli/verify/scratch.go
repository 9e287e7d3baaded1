package verify

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	namespaces "github.com/containerd/containerd/api/services/namespaces/v1"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/goccy/go-yaml"

	"github.com/nanoclaw/nanoclaw/cli/doctor"
	"github.com/nanoclaw/nanoclaw/internal/cleanup"
	"github.com/nanoclaw/nanoclaw/shim/config"
	"github.com/nanoclaw/nanoclaw/shim/launch"
	"github.com/nanoclaw/nanoclaw/shim/sandbox"
)

// DefaultDir is where a scratch engine keeps what it has: in memory, on most
// hosts. A name that does not change finds what a killed run left.
const DefaultDir = "/run/nanoclaw-verify"

const (
	// scratchName is the scratch engine's namespace in containerd, and its cgroup.
	scratchName = "nanoclaw-verify"
	// scratchImage is the image with the reserved tool in it.
	scratchImage = "nanoclaw-verify"
	// engineStart bounds how long the scratch engine may take to answer.
	engineStart = 60 * time.Second
	// engineStop bounds how long it may take to end.
	engineStop = 20 * time.Second
)

// scratch is an engine for one run: a second dockerd beside the host's, with a
// root, a socket, a containerd namespace, a cgroup and a network namespace of its
// own. Its configuration is what gives its containers a policy of their
// own: a runtime's configuration is named by the engine's, which is root's to
// write, and by nothing that a container's request can say. That is why there
// is this engine, and no switch in the runtime.
//
// Its socket lies in a folder of root's, and it ends with this process.
type scratch struct {
	docker
	dir string
	// files holds what is mounted into containers: below /run nothing may be.
	files      string
	containerd string
	config     config.Config
	// canary is the host's credential: a file, and in the environment of all that
	// this run starts. No container is ever given it.
	canary token
	began  time.Time
	undo   cleanup.Stack
}

// token is a random word that is looked for.
type token string

func newToken(of string) token {
	var b [16]byte
	// crypto/rand.Read never fails: it ends the program instead.
	_, _ = rand.Read(b[:])
	return token(prefix + of + "-" + hex.EncodeToString(b[:]))
}

// prefix begins every token, so that a container can look for those of others
// without being told them.
const prefix = "NANOCLAW-VERIFY-"

// newScratch starts the engine. On an error nothing is left.
func newScratch(ctx context.Context, o Options) (_ *scratch, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("only root can start an engine of its own and look at its virtual machines; run it as root")
	}
	s := &scratch{dir: o.Dir, canary: newToken("HOST"), began: time.Now()}
	if s.dir == "" {
		s.dir = DefaultDir
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.undo.Run())
		}
	}()
	if err := s.claim(); err != nil {
		return nil, err
	}
	s.docker = docker{
		host: "unix://" + s.path("docker.sock"), said: &bounded{},
		env: append(os.Environ(), "NANOCLAW_VERIFY_CREDENTIAL="+string(s.canary)),
	}
	own := docker{env: os.Environ()}
	if s.containerd, err = containerdAddress(ctx, own); err != nil {
		return nil, err
	}
	if err := s.configure(o); err != nil {
		return nil, err
	}
	o.Progress("an engine of its own, in %s", s.dir)
	if err := s.startEngine(ctx); err != nil {
		return nil, err
	}
	return s, s.load(ctx, own, o.Image)
}

func (s *scratch) path(names ...string) string {
	return filepath.Join(append([]string{s.dir}, names...)...)
}

// claim makes the folders; one run at a time has them. They may have what a
// killed run left: its containers are removed once there is an engine again.
func (s *scratch) claim() error {
	// Sockets in it have a bounded path; and nothing but our own is to be removed.
	if !filepath.IsAbs(s.dir) || len(s.dir) > 32 || filepath.Base(s.dir) != scratchName {
		return fmt.Errorf("the folder %q is not the absolute path, of at most 32 bytes, of one that is called %s", s.dir, scratchName)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("make the scratch engine's folder: %w", err)
	}
	if err := private(s.dir); err != nil {
		return err
	}
	lock, err := os.Open(s.dir)
	if err != nil {
		return fmt.Errorf("lock %s: %w", s.dir, err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("another verify runs in %s: %w", s.dir, err), lock.Close())
	}
	s.undo.Add("unlock "+s.dir, lock.Close)
	s.undo.Add("remove "+s.dir, s.remove)
	if err := s.makeFiles(); err != nil {
		return err
	}
	for _, folder := range []string{"docker", "exec", "vm", "log"} {
		if err := os.MkdirAll(s.path(folder), 0o700); err != nil {
			return fmt.Errorf("make the scratch engine's folder: %w", err)
		}
	}
	return nil
}

// makeFiles makes the folder of what is mounted, under a name that nobody could
// take before. A note of it is for a later run to remove it, where this one is
// killed.
func (s *scratch) makeFiles() error {
	note := s.path("files")
	switch old, err := os.ReadFile(note); {
	case err == nil:
		dir := string(old)
		if filepath.Dir(dir) == filepath.Clean(os.TempDir()) && strings.HasPrefix(filepath.Base(dir), scratchName+"-") && private(dir) == nil {
			if err := os.RemoveAll(dir); err != nil {
				return fmt.Errorf("remove what a killed run left: %w", err)
			}
		}
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("read what a killed run left: %w", err)
	}
	dir, err := os.MkdirTemp("", scratchName+"-")
	if err != nil {
		return fmt.Errorf("make the folder of what is mounted: %w", err)
	}
	s.files = dir
	s.undo.Add("remove "+dir, func() error { return os.RemoveAll(dir) })
	if err := os.WriteFile(note, []byte(dir), 0o600); err != nil {
		return fmt.Errorf("note the folder of what is mounted: %w", err)
	}
	return nil
}

// private refuses a folder that others can write in.
func private(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("examine %s: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Uid != 0 || st.Mode&0o077 != 0 {
		return fmt.Errorf("%s is not a folder that is root's alone; remove it", dir)
	}
	return nil
}

// remove takes the scratch engine's folder away. It never removes through a
// mount.
func (s *scratch) remove() error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(s.dir))
	if err != nil {
		return fmt.Errorf("look for mounts below %s: %w", s.dir, err)
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		if mounts[i].Mountpoint == s.dir {
			continue
		}
		if err := unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", mounts[i].Mountpoint, err)
		}
	}
	return os.RemoveAll(s.dir)
}

// containerdAddress is where the machine's Docker has its containerd.
func containerdAddress(ctx context.Context, own docker) (string, error) {
	out, err := own.must(ctx, "info", "--format", "{{json .}}")
	if err != nil {
		return "", fmt.Errorf("ask this host's Docker: %w", err)
	}
	var info struct{ Containerd struct{ Address string } }
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		return "", fmt.Errorf("read what this host's Docker says: %w", err)
	}
	// An engine before release 27 does not say. The second one it started itself.
	for _, address := range []string{info.Containerd.Address, "/run/containerd/containerd.sock", "/run/docker/containerd/containerd.sock"} {
		if _, err := os.Stat(address); address != "" && err == nil {
			return address, nil
		}
	}
	return "", errors.New("the containerd of this host's Docker was not found")
}

// configure writes the runtime's configuration, which is the host's but for
// where it keeps things, and the engine's.
func (s *scratch) configure(o Options) error {
	cfg, err := config.Load(o.Config)
	if err != nil {
		return err
	}
	verdicts := filepath.Join(cfg.RunDir, "kvm-verdict-*.json")
	cfg.RunDir, cfg.Policy, cfg.Audit.Dir = s.path("vm"), s.path("policy.yaml"), s.path("log")
	cfg.Audit.OnFull = config.OnFullStop
	s.config = cfg
	// What was found out about the hypervisors of this host need not be found out
	// again. A verdict names what it is about, and is no more believed here.
	found, err := filepath.Glob(verdicts)
	if err != nil {
		return err
	}
	for _, file := range found {
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read the verdict of an earlier trial: %w", err)
		}
		if err := os.WriteFile(s.path("vm", filepath.Base(file)), data, 0o600); err != nil {
			return fmt.Errorf("pass on the verdict of an earlier trial: %w", err)
		}
	}
	text, err := yaml.Marshal(cfg)
	if err != nil {
		return fmt.Errorf("write the runtime's configuration: %w", err)
	}
	if err := os.WriteFile(s.path("config.yaml"), text, 0o600); err != nil {
		return fmt.Errorf("write the runtime's configuration: %w", err)
	}
	engine, err := json.MarshalIndent(s.engineConfig(o.Shim), "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.path("daemon.json"), engine, 0o600); err != nil {
		return fmt.Errorf("write the scratch engine's configuration: %w", err)
	}
	return nil
}

func (s *scratch) engineConfig(shim string) map[string]any {
	return map[string]any{
		"hosts": []string{s.host}, "pidfile": s.path("dockerd.pid"),
		"data-root": s.path("docker"), "exec-root": s.path("exec"),
		"containerd": s.containerd, "containerd-namespace": scratchName,
		// No container of it needs a network.
		"bridge": "none", "iptables": false, "ip6tables": false, "ip-forward": false, "ip-masq": false, "userland-proxy": false,
		// So that images are in its own folder, and not in containerd's.
		"features": map[string]bool{"containerd-snapshotter": false}, "storage-driver": "overlay2",
		// Not a unit of systemd's: those would outlive it.
		"exec-opts": []string{"native.cgroupdriver=cgroupfs"}, "cgroup-parent": "/" + scratchName,
		"live-restore": false, "shutdown-timeout": 1, "log-driver": "json-file",
		"runtimes": map[string]any{doctor.RuntimeName: map[string]any{
			"runtimeType": shim, "options": map[string]string{"ConfigPath": s.path("config.yaml")},
		}},
	}
}

// startEngine starts dockerd and waits until it answers.
func (s *scratch) startEngine(ctx context.Context) error {
	program, err := exec.LookPath("dockerd")
	if err != nil {
		return fmt.Errorf("an engine of its own needs the host's dockerd: %w", err)
	}
	log, err := os.OpenFile(s.path("dockerd.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("make the scratch engine's log: %w", err)
	}
	defer func() { _ = log.Close() }() // dockerd has its own
	cmd := exec.Command(program, "--config-file", s.path("daemon.json"),
		// Its name in the file is another one in some releases.
		"--containerd-plugins-namespace", scratchName+"-plugins")
	cmd.Env, cmd.Stdout, cmd.Stderr = s.env, log, log
	// An engine takes the network that it finds for its own: one without a bridge
	// removes docker0, the first one's. In a network namespace of its own it finds
	// none.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := launch.New().Start(cmd, nil, nil); err != nil {
		return fmt.Errorf("start the scratch engine: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(ended)
	}()
	s.undo.Add("remove what the scratch engine left in containerd", s.forget)
	s.undo.Add("stop the scratch engine", func() error { return stop(cmd.Process, ended) })
	for limit := time.Now().Add(engineStart); ; time.Sleep(100 * time.Millisecond) {
		_, err := s.must(ctx, "version", "--format", "{{.Server.Version}}")
		if err == nil {
			break
		}
		select {
		case <-ended:
			err = errors.New("it ended")
		default:
			if time.Now().Before(limit) && ctx.Err() == nil {
				continue
			}
		}
		words, _ := os.ReadFile(s.path("dockerd.log")) // it is there to be quoted, if it can
		return fmt.Errorf("the scratch engine does not answer: %w; the end of its log:\n%s", err, tail(string(words)))
	}
	s.undo.Add("remove the scratch engine's containers", func() error { return s.removeContainers(context.WithoutCancel(ctx)) })
	// A run that was killed may have left some.
	return s.removeContainers(ctx)
}

func stop(p *os.Process, ended <-chan struct{}) error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-ended:
		return nil
	case <-time.After(engineStop):
	}
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-ended
	return nil
}

func (s *scratch) removeContainers(ctx context.Context) error {
	ids, err := s.must(ctx, "ps", "--all", "--quiet", "--no-trunc")
	if err != nil || ids == "" {
		return err
	}
	_, err = s.must(ctx, append([]string{"rm", "--force", "--volumes"}, strings.Fields(ids)...)...)
	return err
}

// forget removes the scratch engine's namespaces from containerd, and its cgroup.
func (s *scratch) forget() error {
	conn, err := grpc.NewClient("unix://"+s.containerd, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is under way
	ctx, cancel := context.WithTimeout(context.Background(), engineStop)
	defer cancel()
	for _, name := range []string{scratchName, scratchName + "-plugins"} {
		_, err := namespaces.NewNamespacesClient(conn).Delete(ctx, &namespaces.DeleteNamespaceRequest{Name: name})
		if err != nil && status.Code(err) != codes.NotFound {
			return fmt.Errorf("remove the namespace %s: %w", name, err)
		}
	}
	// Both are empty by now, or are somebody's who may look at what is in them.
	for _, state := range s.bundles("") {
		_ = os.Remove(state)
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*/" + scratchName)
	if err != nil {
		return err
	}
	for _, group := range append(groups, "/sys/fs/cgroup/"+scratchName) {
		_ = os.Remove(group)
	}
	return nil
}

// load takes an image over from the host's own engine, and adds the reserved
// tool to it.
func (s *scratch) load(ctx context.Context, own docker, image string) error {
	save, load := own.command(ctx, "save", image), s.command(ctx, "load", "--quiet")
	var saving, loading bounded
	save.Stderr, load.Stderr = &saving, &loading
	pipe, err := save.StdoutPipe()
	if err != nil {
		return err
	}
	load.Stdin = pipe
	if err := load.Start(); err != nil {
		return fmt.Errorf("load the image: %w", err)
	}
	if err := errors.Join(save.Run(), load.Wait()); err != nil {
		return fmt.Errorf("take the image %s over from this host's Docker: %w: %s", image, err, strings.TrimSpace(saving.String()+loading.String()))
	}
	return nil
}

// close ends the engine and removes all that was made.
func (s *scratch) close(context.Context) error { return s.undo.Run() }

// vmDir is the run directory of a container's VM.
func (s *scratch) vmDir(id string) string {
	sum := sha256.Sum256([]byte(scratchName + "/" + id))
	return filepath.Join(s.config.RunDir, hex.EncodeToString(sum[:8]))
}

// bundles are where containerd may keep what it has of a container.
func (s *scratch) bundles(id string) []string {
	const plugin = "io.containerd.runtime.v2.task"
	return []string{
		filepath.Join(filepath.Dir(s.containerd), plugin, scratchName, id),
		filepath.Join("/var/lib/containerd", plugin, scratchName, id),
	}
}

// info is what a VM's run directory says of it.
func (s *scratch) info(c *container) (sandbox.Info, error) {
	all, err := sandbox.List(s.config.RunDir)
	for _, info := range all {
		if info.ID == c.id {
			return info, nil
		}
	}
	return sandbox.Info{}, errors.Join(fmt.Errorf("the container %s has no VM in %s: it does not run under nanoclaw", c.name, s.config.RunDir), err)
}
