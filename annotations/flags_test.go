package annotations

import (
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// A spec that no engine wrote asks for nothing by what is not in it.
func TestBareSpec(t *testing.T) {
	s := &specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}}}}
	p, err := Compile(Input{ID: testID, Spec: s})
	if err != nil {
		t.Fatal(err)
	}
	left := strings.Join(p.LeftOut(s), "\n")
	for _, kind := range []string{"pid", "ipc", "uts", "network"} {
		if !strings.Contains(left, "without a "+kind+" namespace") {
			t.Errorf("%s: not a word of it:\n%s", kind, left)
		}
	}
	if p.Network.Namespace != "" {
		t.Errorf("it joins the network namespace %q", p.Network.Namespace)
	}
	// One that it names is still judged.
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/proc/1/ns/net"})
	if _, err := Compile(Input{ID: testID, Spec: s}); err == nil {
		t.Error("it may join the host's network namespace")
	}
	// An engine names a cgroup, and then what is missing is a person's wish.
	s.Linux.Namespaces, s.Linux.CgroupsPath = s.Linux.Namespaces[:1], "/docker/x"
	if _, err := Compile(Input{ID: testID, Spec: s}); err == nil {
		t.Error("--pid host is not refused")
	}
}
