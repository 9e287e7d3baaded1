// Package container keeps the containers of one VM: what state each is in and
// which processes were started in it.
//
//	creating → created → running ⇄ paused
//	              ↓         ↓        ↓
//	              └────→ stopped ←───┘ → deleted
//
// A container is in the manager's table from the moment its Create begins, so
// that its id is taken, and leaves it when Delete or a failed Create ends.
// Calls in a state that does not allow them return errdefs' FailedPrecondition.
//
// No lock is held while crun runs but the container's own; Wait and Kill take
// none of those, so they never stand behind a call that hangs.
package container

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
	runc "github.com/containerd/go-runc"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/api/stream"
	"github.com/nanoclaw/nanoclaw/guestagent/reaper"
	"github.com/nanoclaw/nanoclaw/guestagent/runtime"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const (
	maxContainers = 64
	// maxExecs bounds a container's processes besides init, those that have
	// exited and were not asked for included.
	maxExecs = 1024
)

// Runtime makes and steers containers. *runtime.Runtime is one.
type Runtime interface {
	Create(ctx context.Context, id, bundle string, stdio runtime.Stdio, console runc.ConsoleSocket) (int, error)
	Start(ctx context.Context, id, bundle string) error
	Exec(ctx context.Context, id, dir, name string, p *specs.Process, stdio runtime.Stdio, console runc.ConsoleSocket) (int, error)
	Pause(ctx context.Context, id, bundle string) error
	Resume(ctx context.Context, id, bundle string) error
	Update(ctx context.Context, id, bundle string, limits *specs.LinuxResources) error
	Delete(ctx context.Context, id, bundle string) error
}

// Streams hands out the connections that the host opened.
type Streams interface {
	Take(ctx context.Context, kind stream.Kind, id string) (net.Conn, error)
}

// Config is what a Manager works with.
type Config struct {
	Runtime Runtime
	Streams Streams
	Reaper  *reaper.Reaper
	// Dir holds the bundles.
	Dir string
	// TerminalDir is where terminals are received. Its path is short: it
	// holds sockets.
	TerminalDir string
	// Share is where the host's tree is mounted.
	Share string
	// NetworkNamespace is the path of the sandbox's.
	NetworkNamespace string
	// LoadGate makes a container's exec gate; nil where there can be none.
	LoadGate LoadGate
}

// Manager is the table of containers.
type Manager struct {
	cfg Config

	mu         sync.Mutex
	containers map[string]*Container
}

// NewManager returns an empty Manager.
func NewManager(cfg Config) *Manager {
	return &Manager{cfg: cfg, containers: make(map[string]*Container)}
}

// validID reports whether id may name a container or an exec: 1 to 128 bytes
// of [a-zA-Z0-9._-], beginning with a letter or digit, because it becomes the
// name of files and an argument of crun.
func validID(id string) bool {
	if id == "" || len(id) > agent.MaxContainerID {
		return false
	}
	for i, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && (c == '.' || c == '_' || c == '-'):
		default:
			return false
		}
	}
	return true
}

func checkID(what, id string) error {
	if !validID(id) {
		return fmt.Errorf("%s id %.140q is not 1 to %d of [a-zA-Z0-9._-]: %w", what, id, agent.MaxContainerID, errdefs.ErrInvalidArgument)
	}
	return nil
}

// reserve puts a new container of that id in the table.
func (m *Manager) reserve(id string) (*Container, error) {
	if err := checkID("container", id); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.containers[id]; ok {
		return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	if len(m.containers) >= maxContainers {
		return nil, fmt.Errorf("there are %d containers: %w", maxContainers, errdefs.ErrResourceExhausted)
	}
	c := newContainer(m.cfg, id)
	m.containers[id] = c
	return c, nil
}

func (m *Manager) forget(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.containers, id)
}

// Get returns the container of that id.
func (m *Manager) Get(id string) (*Container, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.containers[id]
	if !ok {
		return nil, fmt.Errorf("container %.140q: %w", id, errdefs.ErrNotFound)
	}
	return c, nil
}

// Create creates a container up to its program's first instruction and returns
// its init's PID. Nothing of it is left when it fails.
func (m *Manager) Create(ctx context.Context, req *agent.CreateRequest) (int, error) {
	c, err := m.reserve(req.GetContainer())
	if err != nil {
		return 0, err
	}
	pid, err := c.create(ctx, req)
	if err != nil {
		m.forget(c.id)
		return 0, err
	}
	return pid, nil
}

// Delete removes a container that does not run.
func (m *Manager) Delete(ctx context.Context, id string) error {
	c, err := m.Get(id)
	if err != nil {
		return err
	}
	if err := c.delete(ctx); err != nil {
		return err
	}
	m.forget(id)
	return nil
}

// bundleDir makes a container's folder.
func bundleDir(dir, id string) (string, error) {
	bundle := filepath.Join(dir, id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := os.Mkdir(bundle, 0o700); err != nil {
		return "", err
	}
	return bundle, nil
}
