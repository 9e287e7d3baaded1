package manager

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nanoclaw/nanoclaw/shim/config"
	"github.com/nanoclaw/nanoclaw/shim/sandbox"
)

// dialTime bounds the question whether a shim is alive.
const dialTime = time.Second

// joined returns the address of the shim whose VM's network the container in the
// bundle, which is the working folder, joins. It is empty where the container
// has a network of its own, or joins that of something else; what is wrong with
// that, Create says.
func joined(ctx context.Context, namespace, containerd string) (string, error) {
	path, err := networkPath("config.json")
	if err != nil || path == "" {
		return "", err
	}
	configured, err := os.ReadFile(configFile)
	if err != nil && !os.IsNotExist(err) {
		return "", err
	}
	cfg, err := config.Load(string(configured))
	if err != nil {
		return "", err
	}
	owner, err := sandbox.Owner(cfg.RunDir, namespace, path)
	if err != nil || owner == "" {
		// A namespace that cannot be looked at is Create's to judge.
		return "", nil //nolint:nilerr // see above
	}
	address, err := shim.SocketAddress(ctx, containerd, owner, false)
	if err != nil {
		return "", err
	}
	// A record may outlive its shim, and the kernel gives an identity again.
	conn, err := net.DialTimeout("unix", strings.TrimPrefix(address, "unix://"), dialTime)
	if err != nil {
		return "", nil //nolint:nilerr // see above
	}
	return address, conn.Close()
}

// networkPath returns the path of the network namespace in an OCI spec, empty
// where it is a new one.
func networkPath(file string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the bundle: %w", err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return "", fmt.Errorf("read the bundle's config.json: %w", err)
	}
	if spec.Linux == nil {
		return "", nil
	}
	for _, n := range spec.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			return n.Path, nil
		}
	}
	return "", nil
}
