package annotations

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const testID = "4f3c2b1a"

// dockerSpec is what matters here of the spec that Docker 28 writes for
// "docker run IMAGE" on a host with cgroups of the first version.
func dockerSpec(change ...func(*specs.Spec)) *specs.Spec {
	own := "/var/lib/docker/containers/" + testID + "/"
	s := &specs.Spec{
		Root:    &specs.Root{Path: "/var/lib/docker/overlay2/ab/merged"},
		Process: &specs.Process{Cwd: "/"},
		Mounts: []specs.Mount{
			{Type: "proc", Source: "proc", Destination: "/proc"},
			{Type: "bind", Source: own + "resolv.conf", Destination: "/etc/resolv.conf", Options: []string{"rbind", "rprivate"}},
			{Type: "bind", Source: own + "hostname", Destination: "/etc/hostname", Options: []string{"rbind", "rprivate"}},
			{Type: "bind", Source: own + "hosts", Destination: "/etc/hosts", Options: []string{"rbind", "rprivate"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/docker/" + testID,
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}, {Allow: true, Type: "c", Access: "m"}}},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace},
			},
		},
	}
	for _, c := range change {
		c(s)
	}
	return s
}

func without(kind specs.LinuxNamespaceType) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
	}
}

func joining(kind specs.LinuxNamespaceType, path string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		without(kind)(s)
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
	}
}

func privilegedSpec(s *specs.Spec) {
	// As Docker 28 has it: its default rules first, then the one for all.
	s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"})
	s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/vda", Type: "b", Major: 254}}
}

func compile(t *testing.T, s *specs.Spec, pairs ...string) (*Policy, error) {
	t.Helper()
	given := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		given[pairs[i]] = pairs[i+1]
	}
	return Compile(Input{ID: testID, Annotations: given, Spec: s})
}

func mustCompile(t *testing.T, s *specs.Spec, pairs ...string) *Policy {
	t.Helper()
	p, err := compile(t, s, pairs...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// refusal checks that err is a complete Refusal that says all of words.
func refusal(t *testing.T, err error, words ...string) {
	t.Helper()
	var r *Refusal
	if !errors.As(err, &r) {
		t.Fatalf("got %v, want a refusal", err)
	}
	for name, part := range map[string]string{"rule": r.Rule, "layer": string(r.Layer), "what": r.What, "why": r.Why, "instead": r.Instead} {
		if part == "" {
			t.Errorf("the refusal has no %s: %v", name, err)
		}
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the message lacks %q: %v", w, err)
		}
	}
	// By these Docker would take it for a failure of the container's command.
	for _, phrase := range []string{"no such file or directory", "permission denied", "not a directory", "is a directory", "executable file not found"} {
		if strings.Contains(err.Error(), phrase) {
			t.Errorf("the message says %q: %v", phrase, err)
		}
	}
}

func TestFlags(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*specs.Spec)
		refuse []string // nil: accepted
	}{
		{"default", func(*specs.Spec) {}, nil},
		{"--pid host", without(specs.PIDNamespace), []string{"--pid host", "flags.pid"}},
		{"--pid container:X", joining(specs.PIDNamespace, "/proc/77/ns/pid"), []string{"--pid container", "/proc/77/ns/pid"}},
		{"--ipc host", without(specs.IPCNamespace), []string{"--ipc host", "flags.ipc"}},
		{"--ipc container:X", joining(specs.IPCNamespace, "/proc/77/ns/ipc"), []string{"--ipc container"}},
		{"--uts host", without(specs.UTSNamespace), []string{"--uts host", "flags.uts"}},
		{"no network namespace", without(specs.NetworkNamespace), []string{"--network host", "publish ports"}},
		{"--network host of Docker", joining(specs.NetworkNamespace, "/var/run/docker/netns/default"), []string{"--network host", "publish ports"}},
		{"network of pid 1", joining(specs.NetworkNamespace, "/proc/1/ns/net"), []string{"--network host"}},
		{"network of pid 1, hidden", joining(specs.NetworkNamespace, "/proc/77/../1/ns/net"), []string{"--network host"}},
		{"network of self", joining(specs.NetworkNamespace, "/proc/self/ns/net"), []string{"--network host"}},
		{"network of a thread", joining(specs.NetworkNamespace, "/proc/self/task/12/ns/net"), []string{"--network host"}},
		{"--network container:X", joining(specs.NetworkNamespace, "/proc/77/ns/net"), nil},
		{"a named network namespace", joining(specs.NetworkNamespace, "/run/netns/blue"), nil},
		{"no mount namespace", without(specs.MountNamespace), []string{"mount"}},
		{"--cgroupns private", joining(specs.CgroupNamespace, ""), nil},
		{"a cgroup namespace by path", joining(specs.CgroupNamespace, "/proc/1/ns/cgroup"), []string{"--cgroupns"}},
		{"--userns", joining(specs.UserNamespace, ""), nil},
		{"a user namespace by path", joining(specs.UserNamespace, "/proc/1/ns/user"), []string{"--userns"}},
		{"a time namespace", joining(specs.TimeNamespace, ""), nil},
		{"--device", func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}}
		}, []string{"--device", "/dev/fuse"}},
		{"--device and a rule for all", func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/fuse"}}
			s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "a", Access: "rwm"})
		}, []string{"--device"}},
		{"--privileged", privilegedSpec, nil},
		{"a hook", func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/usr/bin/nvidia-container-runtime-hook"}}}
		}, []string{"hook", "nvidia-container-runtime-hook"}},
		{"empty hooks", func(s *specs.Spec) { s.Hooks = &specs.Hooks{} }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := compile(t, dockerSpec(c.change))
			if c.refuse == nil {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			refusal(t, err, append(c.refuse, string(LayerBaseline))...)
		})
	}
}

func TestNetworkNamespace(t *testing.T) {
	p := mustCompile(t, dockerSpec(joining(specs.NetworkNamespace, "/proc/77/ns/net")))
	if p.Network.Namespace != "/proc/77/ns/net" {
		t.Errorf("joins %q", p.Network.Namespace)
	}
	if err := p.CheckNetworkNamespace("/run/netns/x", false); err != nil {
		t.Error(err)
	}
	refusal(t, p.CheckNetworkNamespace("/run/netns/x", true), "--network host")
}

func TestSpecWithoutLinux(t *testing.T) {
	for _, s := range []*specs.Spec{nil, {}} {
		if _, err := Compile(Input{ID: testID, Spec: s}); err == nil {
			t.Error("compiled a policy from nothing")
		}
	}
}

func TestKeys(t *testing.T) {
	for _, c := range []struct {
		key, value string
		refuse     []string
	}{
		{KeyMountsAllow, "", nil},
		{KeyMountsAllow, "/a:ro, /b:rw", nil},
		{KeyMountsAllow, "/a", []string{":ro or :rw"}},
		{KeyMountsAllow, "a:ro", []string{"absolute"}},
		{KeyMountsAllow, "/a/../b:ro", []string{"absolute"}},
		{KeyMountsAllow, "/a:ro,/a:rw", []string{"twice"}},
		{KeyMountsReadonly, "*", nil},
		{KeyMountsReadonly, "/etc/hosts", nil},
		{KeyMountsReadonly, "", []string{"names nothing"}},
		{KeyMountsReadonly, "workspace", []string{"absolute"}},
		{KeyMountsReadonly, "/worksapce", []string{"nothing of the host is mounted there"}},
		{KeyMountsReadonly, "/proc", []string{"nothing of the host is mounted there"}},
		{KeyLimitsCPUs, "2", nil},
		{KeyLimitsCPUs, "0.5", nil},
		{KeyLimitsCPUs, "0", []string{"less than"}},
		{KeyLimitsCPUs, "-1", []string{"not a number"}},
		{KeyLimitsCPUs, "1e3", []string{"not a number"}},
		{KeyLimitsCPUs, "1.", []string{"not a number"}},
		{KeyLimitsCPUs, "", []string{"not a number"}},
		{KeyLimitsMemory, "512m", nil},
		{KeyLimitsMemory, "2GiB", nil},
		{KeyLimitsMemory, "1m", []string{"less than 6m"}},
		{KeyLimitsMemory, "-1", []string{"not a size"}},
		{KeyLimitsMemory, "1.5g", []string{"not a size"}},
		{KeyLimitsMemory, "9999999999t", []string{"not a size"}},
		{KeyLimitsPids, "100", nil},
		{KeyLimitsPids, "0", []string{"at least 1"}},
		{KeyLimitsPids, "-1", []string{"at least 1"}},
		{KeyMode, "enforce", nil},
		{KeyMode, "audit", []string{"only say enforce"}},
		{KeyMountsAllow, strings.Repeat("x", maxValue+1), []string{"longer"}},

		{KeyAgent, "support-agent", []string{KeyAgent, "no policy file"}},
		{KeyAgent, "a b", []string{"not a name"}},
		{KeyTools, "crm-api", []string{KeyTools, "no tool of this name"}},
		{KeyReadonlyTools, "true", []string{"no catalog"}},
		{KeyReadonlyTools, "false", []string{"only force"}},
		{KeySecrets, "TOKEN", []string{"no secret of this name"}},
		{KeyExecMode, "any", []string{"unknown value", "image"}},
		{KeyExecMode, "imge", []string{"did you mean image?"}},
		{KeyExecMode, "allowlist", []string{"none is listed"}},
		{KeyExecAllow, "", []string{"none is listed"}},
		{KeyExecDeny, "bin/sh", []string{"absolute"}},
		{KeyNetwork, "open", []string{"unknown value"}},
		{KeyNetworkAllow, "exa mple.com", []string{"not a host name"}},
		{KeyMountsHide, "", []string{"names nothing"}},
		{KeyMountsHide, "/w/.env*", []string{"nothing of the host is mounted above it"}},
		{KeyMountsHide, "/etc/hosts", []string{"not supported by this version"}},
		{KeyMountsHide, "/**/.env*", []string{"not supported by this version"}},
		{KeyMountsHide, "/", []string{"not below a mount"}},
		{KeyLimitsLifetime, "1", []string{"not a duration"}},
		{KeyLimitsLifetime, "500ms", []string{"not a duration"}},
		{KeyLimitsLifetime, "8h", []string{"not supported by this version"}},
		{KeyPolicy, "[", []string{"not JSON"}},
		{KeyPolicy, `{"exec":{"mod":"image"}}`, []string{"unknown key", "did you mean mode?"}},
		{KeyPolicy, `{"agent":"x","agent":"y"}`, []string{"twice"}},
		{KeyPolicy, `{"network":"none"}`, []string{KeyPolicy, "not supported by this version"}},
		{KeyExecMode, "image", []string{KeyExecMode, "not supported by this version"}},
		{Prefix + "mounts.readnly", "*", []string{"no such key", "write " + KeyMountsReadonly}},
		{Prefix + "exec.mod", "x", []string{"no such key", "nearest is " + KeyExecMode, "not supported"}},
		{Prefix + "tool", "x", []string{"no such key", "write " + KeyTools}},
		{"IO.NanoClaw.mounts.readonly", "*", []string{"no such key", "write " + KeyMountsReadonly}},
		{"io.nanoclaw", "x", []string{"no such key"}},
		{Prefix, "x", []string{"no such key"}},
		{Prefix + "zzzzzzzzzzzzzzzzzzzzzzzzzzzzz", "x", []string{"no such key", "remove it"}},
		{Prefix + "a\nb" + strings.Repeat("c", 1000), "x", []string{"no such key"}},

		{"com.example.other", "anything", nil},
		{"io.nanoclawx.agent", "somebody else's", nil},
	} {
		t.Run(quote(c.key+"="+c.value), func(t *testing.T) {
			_, err := compile(t, dockerSpec(), c.key, c.value)
			if c.refuse == nil {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			refusal(t, err, c.refuse...)
			if len(err.Error()) > 2000 || strings.Contains(err.Error(), "\n") {
				t.Errorf("not one readable line: %q", err)
			}
		})
	}
}

// TestNoKeyIsIgnored feeds every key and sees each either change the policy or
// be refused.
func TestNoKeyIsIgnored(t *testing.T) {
	values := map[string]string{
		KeyMountsAllow: "/a:ro", KeyMountsReadonly: "*", KeyLimitsCPUs: "1", KeyLimitsMemory: "1g", KeyLimitsPids: "10",
		KeyExecMode: "image", KeyExecAllow: "/bin/sh", KeyExecDeny: "/bin/nc", KeyExecAsk: "/bin/rm", KeyMountsHide: "/**/.env*",
		KeyNetwork: "none", KeyNetworkAllow: "x.org", KeyNetworkDeny: "x.org", KeyNetworkAsk: "x.org", KeyLimitsLifetime: "1h",
		KeyPolicy: `{"exec":{"mode":"image"}}`,
	}
	base := mustCompile(t, dockerSpec()).Digest()
	for key, spec := range keys {
		_, err := compile(t, dockerSpec(), key, values[key])
		if err == nil && spec.needs != "" {
			t.Errorf("%s is not enforced and was accepted", key)
		}
		p, err := Compile(Input{ID: testID, Spec: dockerSpec(), Annotations: map[string]string{key: values[key]}, Enforced: Everything})
		switch {
		case err != nil:
			refusal(t, err, key)
		case key == KeyMode || key == KeySecrets:
			// To enforce, and to use no secrets, is the baseline.
		case p.Digest() == base:
			t.Errorf("%s changed nothing", key)
		}
	}
}

func TestEveryRuleHasALayer(t *testing.T) {
	p := mustCompile(t, dockerSpec(), KeyMountsAllow, "/a:ro", KeyMountsReadonly, "*", KeyLimitsCPUs, "1", KeyLimitsMemory, "1g", KeyLimitsPids, "10")
	for _, r := range p.Mounts.Refuse {
		if r.Layer != LayerBaseline || r.Rule == "" || r.Kind == "" {
			t.Errorf("incomplete: %+v", r)
		}
	}
	for name, l := range map[string]Layer{
		"allow": p.Mounts.Allow[0].Layer, "readonly": p.Mounts.Readonly[0].Layer, "cpus": p.Limits.CPUs.Layer,
		"memory": p.Limits.Memory.Layer, "pids": p.Limits.Pids.Layer,
	} {
		if l != LayerAnnotation {
			t.Errorf("%s comes from %q", name, l)
		}
	}
}

func TestJSONRoundTripKeepsTheDigest(t *testing.T) {
	p := mustCompile(t, dockerSpec(), KeyMountsAllow, "/a:ro", KeyLimitsCPUs, "1.25")
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var q Policy
	if err := json.Unmarshal(b, &q); err != nil {
		t.Fatal(err)
	}
	if p.Digest() != q.Digest() || !reflect.DeepEqual(*p, q) {
		t.Errorf("%+v became %+v", *p, q)
	}
	if other := mustCompile(t, dockerSpec()); other.Digest() == p.Digest() {
		t.Error("two policies have one digest")
	}
}

func TestApply(t *testing.T) {
	s := dockerSpec(privilegedSpec, joining(specs.NetworkNamespace, "/proc/77/ns/net"))
	s.Annotations = map[string]string{KeyLimitsPids: "10", "other": "stays"}
	before, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	p := mustCompile(t, s, KeyMountsReadonly, "/etc/hosts", KeyLimitsCPUs, "0.5", KeyLimitsMemory, "64m", KeyLimitsPids, "10")
	out := p.Apply(s)
	if after, err := json.Marshal(s); err != nil || string(after) != string(before) {
		t.Error("the given spec was changed")
	}
	if len(out.Linux.Devices) > 0 {
		t.Error("the host's devices are still there")
	}
	for _, n := range out.Linux.Namespaces {
		if n.Path != "" {
			t.Errorf("the guest is told to join %s", n.Path)
		}
	}
	if want := map[string]string{"other": "stays"}; !maps.Equal(out.Annotations, want) {
		t.Errorf("annotations %v", out.Annotations)
	}
	r := out.Linux.Resources
	if *r.CPU.Quota != 50000 || *r.CPU.Period != 100000 || *r.Memory.Limit != 64<<20 || *r.Memory.Swap != 64<<20 || *r.Pids.Limit != 10 {
		t.Errorf("resources %+v %+v %+v", r.CPU, r.Memory, r.Pids)
	}
	if !slices.Contains(out.Mounts[3].Options, "ro") || slices.Contains(out.Mounts[1].Options, "ro") {
		t.Errorf("mounts %+v", out.Mounts)
	}
}

func TestSmallerLimitWins(t *testing.T) {
	p := mustCompile(t, dockerSpec(), KeyLimitsMemory, "64m", KeyLimitsPids, "10", KeyLimitsCPUs, "2")
	for _, c := range []struct{ asked, want int64 }{{-1, 10}, {0, 10}, {5, 5}, {10, 10}, {11, 10}} {
		r := &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &c.asked}}
		p.NarrowResources(r)
		if *r.Pids.Limit != c.want {
			t.Errorf("pids %d became %d, want %d", c.asked, *r.Pids.Limit, c.want)
		}
	}
	small, period := int64(32<<20), uint64(50000)
	quota := int64(50000)
	r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &small}, CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}}
	p.NarrowResources(r)
	if *r.Memory.Limit != 32<<20 || *r.CPU.Quota != 50000 || *r.CPU.Period != 50000 {
		t.Errorf("a smaller limit was raised: %+v %+v", r.Memory, r.CPU)
	}
}

// TestDocumentedInPolicy keeps docs/policy.md complete.
func TestDocumentedInPolicy(t *testing.T) {
	doc, err := os.ReadFile("../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		if !strings.Contains(string(doc), "`"+k+"`") {
			t.Errorf("docs/policy.md does not mention `%s`", k)
		}
	}
	for _, p := range baselinePlaces() {
		if !strings.Contains(string(doc), "`"+p.Path+"`") {
			t.Errorf("docs/policy.md does not mention `%s`", p.Path)
		}
	}
}

func FuzzCompile(f *testing.F) {
	f.Add(KeyMountsAllow, "/a:ro,/b:rw")
	f.Add(KeyMountsReadonly, "*")
	f.Add(KeyLimitsMemory, "512m")
	f.Add(KeyLimitsCPUs, "0.001")
	f.Add(KeyLimitsPids, "9223372036854775808")
	f.Add("io.nanoclaw.toolz", "\x00")
	f.Add(KeyPolicy, `{"exec":{"mode":"image","deny":["/usr/bin/nc",{"path":"/a","argv":["b"]}]},"network":{"allow":["x.org:443"]},"limits":{"pids":5}}`)
	f.Add(KeyExecAllow, "/usr/**/git,/bin/sh")
	f.Add(KeyNetworkDeny, "private,[::1]:80,10.0.0.0/8")
	f.Fuzz(func(t *testing.T, key, value string) {
		p, err := Compile(Input{ID: testID, Annotations: map[string]string{key: value}, Spec: dockerSpec(), Enforced: Everything})
		if err != nil {
			if len(err.Error()) > 4000 {
				t.Errorf("a message of %d bytes", len(err.Error()))
			}
			return
		}
		// Whatever an annotation says, what the baseline refuses stays refused.
		m := Mount{Destination: "/a", ReadOnly: true, Source: Source{Asked: "/x", Path: "/etc", Kind: KindDir}}
		if p.CheckMount(m) == nil {
			t.Errorf("%q=%q opened /etc", key, value)
		}
		r := &specs.LinuxResources{}
		p.NarrowResources(r)
		if r.Memory != nil && *r.Memory.Limit < minMemory || r.CPU != nil && *r.CPU.Quota < 1000 || r.Pids != nil && *r.Pids.Limit < 1 {
			t.Errorf("%q=%q made a limit that is none: %+v", key, value, r)
		}
	})
}
