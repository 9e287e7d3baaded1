package ocispec

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var guest = Guest{CgroupPath: "/containers/x", NetworkNamespace: "/run/netns/sandbox"}

// base is a specification that is accepted, for tests to change.
func base() *specs.Spec {
	return &specs.Spec{
		Root:    &specs.Root{Path: "c/rootfs"},
		Process: &specs.Process{Args: []string{"true"}, Cwd: "/"},
		Linux:   &specs.Linux{},
	}
}

func fitted(t *testing.T, change func(*specs.Spec)) (*specs.Spec, string, error) {
	t.Helper()
	s := base()
	change(s)
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	out, dropped, err := Container(raw, guest)
	return out, strings.Join(dropped, "\n"), err
}

func ptr[T any](v T) *T { return &v }

func TestRefused(t *testing.T) {
	for name, change := range map[string]func(*specs.Spec){
		"no root":           func(s *specs.Spec) { s.Root = nil },
		"no process":        func(s *specs.Spec) { s.Process = nil },
		"no linux":          func(s *specs.Spec) { s.Linux = nil },
		"windows":           func(s *specs.Spec) { s.Windows = &specs.Windows{} },
		"hooks":             func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/sh"}}} },
		"root of the guest": func(s *specs.Spec) { s.Root.Path = "/" },
		"root is the share": func(s *specs.Spec) { s.Root.Path = agent.ShareDir },
		"root leads out":    func(s *specs.Spec) { s.Root.Path = "../../.." },
		"root beside":       func(s *specs.Spec) { s.Root.Path = agent.ShareDir + "-other" },
		"no args":           func(s *specs.Spec) { s.Process.Args = nil },
		"relative cwd":      func(s *specs.Spec) { s.Process.Cwd = "x" },
		"bind from outside": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/a", Type: "bind", Source: "/etc"}}
		},
		"rbind by option": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/a", Type: "tmpfs", Source: "/", Options: []string{"rbind"}}}
		},
		"bind leads out": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/a", Type: "bind", Source: agent.ShareDir + "/../../x"}}
		},
		"mount of a device": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/a", Type: "erofs", Source: "/dev/vda"}}
		},
		"mount of the share": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/a", Type: "virtiofs", Source: agent.ShareTag}}
		},
		"bind of another device": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/a", Type: "bind", Source: "/dev/vda"}}
		},
		"bind of a device by another name": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/a", Type: "bind", Source: "/dev/../dev/null"}}
		},
		"relative destination": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "a", Type: "tmpfs"}}
		},
		"seccomp listener": func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{ListenerPath: "/run/x"} },
		"net devices":      func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth0": {}} },
	} {
		if _, _, err := fitted(t, change); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := Container(make([]byte, agent.MaxSpecBytes+1), guest); !errdefs.IsInvalidArgument(err) {
		t.Errorf("too long: %v", err)
	}
}

func TestPathsBecomeAbsolute(t *testing.T) {
	s, _, err := fitted(t, func(s *specs.Spec) {
		s.Mounts = []specs.Mount{
			{Destination: "/a", Type: "bind", Source: agent.ShareDir + "/c/mounts/0"},
			{Destination: "/b", Source: "c/mounts/1", Options: []string{"bind", "ro"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
			{Destination: "/app/.env", Type: "bind", Source: "/dev/null", Options: []string{"rbind"}},
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{agent.ShareDir + "/c/rootfs", agent.ShareDir + "/c/mounts/0", agent.ShareDir + "/c/mounts/1"}
	if got := Sources(s); !slices.Equal(got, want) {
		t.Errorf("Sources = %q, want %q", got, want)
	}
}

func TestNamespaces(t *testing.T) {
	s, dropped, err := fitted(t, func(s *specs.Spec) {
		s.Linux.Namespaces = []specs.LinuxNamespace{
			{Type: specs.NetworkNamespace, Path: "/proc/77/ns/net"},
			{Type: specs.PIDNamespace, Path: "/proc/77/ns/pid"},
			{Type: specs.TimeNamespace, Path: "/proc/77/ns/time"},
			{Type: specs.UTSNamespace},
			{Type: specs.UTSNamespace},
		}
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 1}}
	})
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[specs.LinuxNamespaceType]string)
	for _, ns := range s.Linux.Namespaces {
		if _, twice := got[ns.Type]; twice {
			t.Errorf("%s is there twice", ns.Type)
		}
		got[ns.Type] = ns.Path
	}
	for _, own := range []specs.LinuxNamespaceType{"pid", "ipc", "uts", "mount", "cgroup"} {
		if path, ok := got[own]; !ok || path != "" {
			t.Errorf("%s namespace: %q, %t", own, path, ok)
		}
	}
	if got["network"] != guest.NetworkNamespace {
		t.Errorf("network namespace %q", got["network"])
	}
	if _, ok := got["time"]; ok || s.Linux.TimeOffsets != nil {
		t.Error("the host's time namespace is left")
	}
	if !strings.Contains(dropped, "pid namespace") || !strings.Contains(dropped, "time namespace") {
		t.Errorf("dropped: %s", dropped)
	}
}

func TestDroppedByName(t *testing.T) {
	s, dropped, err := fitted(t, func(s *specs.Spec) {
		s.Process.ApparmorProfile, s.Process.SelinuxLabel, s.Linux.MountLabel = "docker-default", "label", "label"
		s.Annotations = map[string]string{"run.oci.handler": "wasm"}
		s.Linux.CgroupsPath = "/system.slice/docker"
		s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "x"}
		s.Linux.Resources = &specs.LinuxResources{
			Memory: &specs.LinuxMemory{
				//nolint:staticcheck // deprecated, and so one of what is dropped
				Limit: ptr(int64(1 << 20)), Swap: ptr(int64(9 << 20)), Kernel: ptr(int64(1)), Swappiness: ptr(uint64(0)), DisableOOMKiller: ptr(true),
			},
			CPU:            &specs.LinuxCPU{Cpus: "7", Mems: "1", Shares: ptr(uint64(2)), RealtimeRuntime: ptr(int64(1))},
			BlockIO:        &specs.LinuxBlockIO{Weight: ptr(uint16(10)), ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{{}}},
			Network:        &specs.LinuxNetwork{ClassID: ptr(uint32(1))},
			Pids:           &specs.LinuxPids{Limit: ptr(int64(5))},
			HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB"}},
			Rdma:           map[string]specs.LinuxRdma{"x": {}},
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"apparmorProfile", "selinuxLabel", "mountLabel", "annotations", "intelRdt", "memory.kernel", "memory.swap", "swappiness",
		"disableOOMKiller", "cpu.cpus", "cpu.mems", "realtimeRuntime", "throttleReadBpsDevice", "blockIO.weight", "network.classID", "hugepageLimits", "rdma",
	} {
		if !strings.Contains(dropped, name) {
			t.Errorf("%s is dropped without a word:\n%s", name, dropped)
		}
	}
	r := s.Linux.Resources
	if *r.Memory.Limit != 1<<20 || *r.CPU.Shares != 2 || *r.Pids.Limit != 5 || s.Linux.CgroupsPath != guest.CgroupPath {
		t.Error("what the guest can do is not kept")
	}
	if r.Memory.Swap != nil || r.Memory.DisableOOMKiller != nil || r.CPU.Cpus != "" || r.BlockIO != nil || s.Annotations != nil {
		t.Error("what was dropped is still there")
	}
}

func TestDockersOwnSpecLosesNothingByName(t *testing.T) {
	_, dropped, err := fitted(t, func(s *specs.Spec) {
		s.Linux.Resources = &specs.LinuxResources{
			Memory:  &specs.LinuxMemory{Limit: ptr(int64(1 << 20)), Swap: ptr(int64(2 << 20)), DisableOOMKiller: ptr(false)},
			CPU:     &specs.LinuxCPU{Shares: ptr(uint64(0))},
			BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(0))},
		}
	})
	if err != nil || dropped != "" {
		t.Errorf("dropped %q, %v", dropped, err)
	}
}

func TestProcess(t *testing.T) {
	p, _, err := Process([]byte(`{"args":["sh"],"cwd":"/","terminal":true,"apparmorProfile":"x"}`), false)
	if err != nil || p.Terminal || p.ApparmorProfile != "" {
		t.Errorf("%+v, %v", p, err)
	}
	for in, want := range map[string]int{`{"args":["sh"],"cwd":"/"}`: 0, `{"args":["sh"],"cwd":"/","oomScoreAdj":-500}`: -500} {
		if p, _, err := Process([]byte(in), false); err != nil || p.OOMScoreAdj == nil || *p.OOMScoreAdj != want {
			t.Errorf("Process(%s) = %+v, %v; want the OOM score %d, and not the agent's", in, p, err, want)
		}
	}
	for _, bad := range []string{``, `[]`, `{}`, `{"args":[],"cwd":"/"}`, `{"args":["sh"],"cwd":""}`} {
		if _, _, err := Process([]byte(bad), false); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Process(%s) = %v", bad, err)
		}
	}
}

func TestResources(t *testing.T) {
	r, _, err := Resources([]byte(`{"memory":{"limit":5,"swap":10}}`), true)
	if err != nil || *r.Memory.Limit != 5 || *r.Memory.Swap != 10 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, _, err := Resources([]byte(`nothing`), true); !errdefs.IsInvalidArgument(err) {
		t.Errorf("%v", err)
	}
}

func FuzzContainer(f *testing.F) {
	raw, err := json.Marshal(base())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"root":{"path":"/run/nanoclaw/share/../x"},"process":{"args":["x"],"cwd":"/"},"linux":{"resources":{"cpu":{},"memory":{}}},"mounts":[{"destination":"/","type":"bind","source":"//run/nanoclaw/share//x"}]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		spec, _, err := Container(in, guest)
		if err != nil {
			return
		}
		for _, p := range Sources(spec) {
			if !strings.HasPrefix(p, agent.ShareDir+"/") || strings.Contains(p, "/../") || strings.HasSuffix(p, "/..") {
				t.Errorf("source %q is outside the share", p)
			}
		}
		for _, ns := range spec.Linux.Namespaces {
			if ns.Path != "" && ns.Path != guest.NetworkNamespace {
				t.Errorf("namespace %+v", ns)
			}
		}
	})
}

func FuzzProcess(f *testing.F) {
	f.Add([]byte(`{"args":["sh"],"cwd":"/"}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		p, _, err := Process(in, true)
		if err == nil && (len(p.Args) == 0 || !p.Terminal) {
			t.Errorf("accepted %+v", p)
		}
	})
}

func FuzzResources(f *testing.F) {
	f.Add([]byte(`{"memory":{"limit":1,"kernel":null},"cpu":{"cpus":"0"},"blockIO":{"weight":1}}`))
	f.Fuzz(func(_ *testing.T, in []byte) {
		_, _, _ = Resources(in, false)
	})
}
