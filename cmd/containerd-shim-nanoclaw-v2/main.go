// Command containerd-shim-nanoclaw-v2 is the containerd shim that runs
// containers in micro-VMs. containerd starts it; nobody else needs to.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/hypervisor/choose"
	"github.com/nanoclaw/nanoclaw/shim/config"
	"github.com/nanoclaw/nanoclaw/shim/hidefs"
	"github.com/nanoclaw/nanoclaw/shim/manager"
	"github.com/nanoclaw/nanoclaw/shim/task"
)

func init() {
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			publisher, err := ic.GetByID(plugins.EventPlugin, "publisher")
			if err != nil {
				return nil, err
			}
			sd, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
			if err != nil {
				return nil, err
			}
			namespace, err := namespaces.NamespaceRequired(ic.Context)
			if err != nil {
				return nil, err
			}
			return task.New(ic.Context, task.Options{
				Namespace:  namespace,
				Publisher:  publisher.(shim.Publisher),
				Shutdown:   sd.(shutdown.Service),
				Began:      manager.Began(),
				Address:    manager.Address(),
				Hypervisor: chooseHypervisor,
			}), nil
		},
	})
}

func chooseHypervisor(ctx context.Context, c config.Config) (hypervisor.Hypervisor, error) {
	return choose.Hypervisor(ctx, c.Choice())
}

func main() {
	if hidefs.IsServer(os.Args) {
		hidefs.Main()
	}
	if err := manager.Detach(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// The VM's processes are waited for by those who started them.
	shim.Run(context.Background(), manager.Manager{}, func(c *shim.Config) {
		c.NoReaper, c.NoSubreaper = true, true
	})
}
