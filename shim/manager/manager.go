// Package manager is the shim binary's commands: "start", which leaves a shim
// serving in the background, "delete", which removes what a dead shim left, and
// the "-info" flag. Package task is what the background shim serves.
package manager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/types"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/internal/version"
	"github.com/nanoclaw/nanoclaw/shim/began"
	"github.com/nanoclaw/nanoclaw/shim/config"
	"github.com/nanoclaw/nanoclaw/shim/sandbox"
	"github.com/nanoclaw/nanoclaw/shim/wording"
)

// Name is the runtime's name towards containerd.
const Name = "io.containerd.nanoclaw.v2"

// configFile holds, in the bundle, the path of the configuration that "start"
// was given: "delete" is not told.
const configFile = "nanoclaw-config"

// socketFile holds, in the bundle, the address at which the shim serves, for
// "delete" to remove what a killed shim could not.
const socketFile = "nanoclaw-socket"

// childEnv marks the shim that serves, in its own mount namespace. Its value is
// when "start" began, in nanoseconds since 1970.
const childEnv = "NANOCLAW_SHIM_CHILD"

// addressEnv tells the shim that serves where it does.
const addressEnv = "NANOCLAW_SHIM_ADDRESS"

// Manager implements shim.Manager.
type Manager struct{}

var _ shim.Manager = Manager{}

// Name implements shim.Manager.
func (Manager) Name() string { return Name }

// Start starts a shim that serves the task API and returns its address. A
// container that joins the network of another one of ours is served by the
// other one's shim, since it runs in the same VM.
//
// Nothing may be written to standard output or standard error but the reply:
// containerd reads both as one.
func (Manager) Start(ctx context.Context, id string, opts shim.StartOpts) (_ shim.BootstrapParams, err error) {
	defer func() { err = wording.Error(err) }()
	// Version 2 is what every containerd from 1.7 on understands.
	params := shim.BootstrapParams{Version: 2, Protocol: "ttrpc"}
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return params, err
	}
	if err := rememberConfig(os.Stdin); err != nil {
		return params, err
	}
	if params.Address, err = joined(ctx, ns, opts.Address); err != nil || params.Address != "" {
		return params, err
	}
	address, err := shim.SocketAddress(ctx, opts.Address, id, false)
	if err != nil {
		return params, err
	}
	socket, err := shim.NewSocket(address)
	if shim.SocketEaddrinuse(err) {
		// Only a shim that is gone can have left it: ids are unique.
		if err := shim.RemoveSocket(address); err != nil {
			return params, fmt.Errorf("remove the socket of a dead shim: %w", err)
		}
		socket, err = shim.NewSocket(address)
	}
	if err != nil {
		return params, fmt.Errorf("listen for containerd: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, shim.RemoveSocket(address))
		}
	}()
	if err := os.WriteFile(socketFile, []byte(address), 0o600); err != nil {
		return params, fmt.Errorf("note the shim's address in the bundle: %w", err)
	}
	file, err := socket.File()
	if err != nil {
		return params, err
	}
	self, err := os.Executable()
	if err != nil {
		return params, err
	}
	args := []string{"-namespace", ns, "-id", id, "-address", opts.Address}
	if opts.Debug {
		args = append(args, "-debug")
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), childEnv+"="+strconv.FormatInt(began.At().UnixNano(), 10), addressEnv+"="+address)
	cmd.ExtraFiles = []*os.File{file}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid: true,
		// The tree that is shared with the VM is composed where no one else
		// sees it, and is gone with the shim.
		Cloneflags: syscall.CLONE_NEWNS,
	}
	if err := cmd.Start(); err != nil {
		return params, fmt.Errorf("start the serving shim: %w", err)
	}
	if err := shim.AdjustOOMScore(cmd.Process.Pid); err != nil {
		return params, errors.Join(fmt.Errorf("protect the shim from the OOM killer: %w", err), cmd.Process.Kill())
	}
	params.Address = address
	return params, cmd.Process.Release()
}

// Detach finishes what Start began, in the serving shim: mounts made here stay
// here, mounts made by the engine arrive here.
func Detach() error {
	if os.Getenv(childEnv) == "" {
		return nil
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make the shim's mounts private: %w", err)
	}
	return nil
}

// Began is when the "start" that left this process serving began.
func Began() time.Time {
	ns, err := strconv.ParseInt(os.Getenv(childEnv), 10, 64)
	if err != nil {
		return began.At()
	}
	return time.Unix(0, ns)
}

// Address is where this process serves, if "start" left it serving.
func Address() string { return os.Getenv(addressEnv) }

// rememberConfig keeps the path of the configuration in the bundle.
func rememberConfig(options io.Reader) error {
	o, err := shim.ReadRuntimeOptions[*runtimeoptions.Options](options)
	if err != nil || o.GetConfigPath() == "" {
		// Other options are Create's to judge.
		return nil
	}
	return os.WriteFile(configFile, []byte(o.GetConfigPath()), 0o600)
}

// Stop removes what a shim that is gone has left. It asks nothing of the
// guest, and ends within containerd's five seconds.
func (Manager) Stop(ctx context.Context, id string) (shim.StopStatus, error) {
	status := shim.StopStatus{ExitedAt: time.Now(), ExitStatus: 128 + int(unix.SIGKILL)}
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return status, err
	}
	cwd, err := os.Getwd()
	if err != nil {
		return status, err
	}
	bundle := filepath.Join(filepath.Dir(cwd), id)
	left, err := sandbox.Destroy(bundle, ns, id)
	if err != nil {
		return status, err
	}
	if left != nil {
		if err := recordDeath(auditConfig(ctx, bundle), left); err != nil {
			log.G(ctx).WithError(err).Error("the audit log lacks the end of the container")
		}
	}
	if err := removeSocket(bundle); err != nil {
		log.G(ctx).WithError(err).Warn("remove the socket of the dead shim")
	}
	if err := mount.UnmountRecursive(filepath.Join(bundle, "rootfs"), unix.MNT_DETACH); err != nil {
		log.G(ctx).WithError(err).Warn("unmount the bundle's root file system")
	}
	return status, nil
}

// removeSocket removes the socket of a shim that is gone. One that lives on for
// containers that joined the network of the one in the bundle still serves there:
// a restarted containerd, and nanoclaw top, look for it.
func removeSocket(bundle string) error {
	address, err := os.ReadFile(filepath.Join(bundle, socketFile))
	if err == nil && !shim.CanConnect(string(address)) {
		err = shim.RemoveSocket(string(address))
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// auditConfig is the audit log's part of the configuration, which may have been
// broken since the container was started.
func auditConfig(ctx context.Context, bundle string) config.Audit {
	path, err := os.ReadFile(filepath.Join(bundle, configFile))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	var cfg config.Config
	if err == nil {
		cfg, err = config.Load(string(path))
	}
	if err != nil {
		log.G(ctx).WithError(err).Warn("the end of the container is recorded in the default audit log")
		cfg = config.Default()
	}
	return cfg.Audit
}

// Info implements shim.Manager.
func (m Manager) Info(context.Context, io.Reader) (*types.RuntimeInfo, error) {
	return &types.RuntimeInfo{Name: m.Name(), Version: &types.RuntimeVersion{Version: version.Version}}, nil
}
