package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/nanoclaw/nanoclaw/cli/engine"
)

const (
	// RuntimeName is what containers are started with: --runtime=nanoclaw.
	RuntimeName = "nanoclaw"
	// shimName is the program that containerd starts for it.
	shimName = "containerd-shim-nanoclaw-v2"
	// runtimeType is a name by which containerd finds that program in its PATH.
	runtimeType = "io.containerd.nanoclaw.v2"
)

// maxDocument bounds Docker's configuration.
const maxDocument = 1 << 20

// registration is how Docker's configuration names the runtime.
type registration struct {
	there  bool
	shim   string // runtimeType: a path or a name
	config string // the runtime's own configuration, if it names one
}

// docker looks whether Docker knows the runtime: in its configuration, and by
// asking the daemon that runs.
func (h Host) docker(ctx context.Context) (registration, Section) {
	s := Section{Name: SectionDocker}
	runtimes, asked := engine.Runtimes(ctx, h.DockerSocket)
	known := runtimes[RuntimeName]
	r, err := readDaemonJSON(h.DaemonJSON)
	switch {
	case err != nil:
		s.add("configuration", Problem, "mend it; Docker does not start with it either", "%v", err)
	case r.there:
		s.add("configuration", OK, "", "%s registers the runtime %s", h.DaemonJSON, RuntimeName)
		shim(&s, r.shim)
	case known:
		s.add("configuration", Unused, "", "%s does not name the runtime, yet the daemon knows it", h.DaemonJSON)
	default:
		s.add("configuration", Problem, "make install adds it", "%s does not register the runtime %s", h.DaemonJSON, RuntimeName)
	}
	switch {
	case asked != nil:
		s.add(ItemDaemon, Warning, "start Docker, or set DOCKER_HOST to its unix:// socket", "it was not asked: %v", asked)
	case known:
		s.add(ItemDaemon, OK, "", "it knows the runtime %s", RuntimeName)
	default:
		s.add(ItemDaemon, Problem, "have it read its configuration: systemctl reload docker", "it does not know the runtime %s", RuntimeName)
	}
	return r, s
}

// shim looks for the program behind the runtime.
func shim(s *Section, name string) {
	path := name
	if name == runtimeType {
		path = shimName
	}
	found, err := exec.LookPath(path)
	switch {
	case err != nil:
		s.add("shim", Problem, "make install puts it there", "%s cannot be run: %v", name, err)
	case filepath.IsAbs(name) || name == runtimeType:
		s.add("shim", OK, "", "%s", found)
	default:
		s.add("shim", Problem, "name it by its whole path", "Docker takes neither a path nor a runtime's name in %q", name)
	}
}

func readDaemonJSON(path string) (registration, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return registration{}, nil
	}
	if err != nil {
		return registration{}, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxDocument))
	if err != nil {
		return registration{}, err
	}
	r, err := parseDaemonJSON(data)
	if err != nil {
		return registration{}, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// Registered returns what Docker's configuration says of the runtime: the shim's
// path or type, and the runtime's own configuration, empty where it names none.
// A runtime that it does not name is found by containerd, by its type.
func Registered(daemonJSON string) (shim, config string, err error) {
	r, err := readDaemonJSON(daemonJSON)
	if err != nil {
		return "", "", err
	}
	if r.shim == "" {
		r.shim = runtimeType
	}
	return r.shim, r.config, nil
}

func parseDaemonJSON(data []byte) (registration, error) {
	if len(strings.TrimSpace(string(data))) == 0 {
		return registration{}, nil
	}
	var d struct {
		Runtimes map[string]struct {
			RuntimeType string
			Options     struct{ ConfigPath string }
		}
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return registration{}, err
	}
	r, there := d.Runtimes[RuntimeName]
	return registration{there: there, shim: r.RuntimeType, config: r.Options.ConfigPath}, nil
}
