package task

import (
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestSandboxOfAnotherContainersNetwork(t *testing.T) {
	h := newHarness(t)
	h.vm.network = "/proc/7/ns/net"
	if _, err := h.Create(t.Context(), h.request()); err != nil {
		t.Fatal(err)
	}
	asking := func(path string) *specs.Spec {
		return &specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace, Path: "/proc/7/ns/net"}, {Type: specs.NetworkNamespace, Path: path},
		}}}
	}
	shared, peers := h.sandboxOf(asking("/proc/7/ns/net"))
	// The first container's files are shared as well when it is gone itself.
	if shared != h.vm || !slices.Equal(peers, []string{id, h.vm.ID()}) {
		t.Errorf("%v with %v", shared, peers)
	}
	for _, path := range []string{"", "/proc/8/ns/net"} {
		if shared, peers := h.sandboxOf(asking(path)); shared != nil || peers != nil {
			t.Errorf("%q leads to %v with %v", path, shared, peers)
		}
	}
}
