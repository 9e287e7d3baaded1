// Package carry checks that nothing of an OCI specification is lost without a word
// on its way from the engine to the runtime in the VM: each field arrives, or is
// refused, or is named as left out. Whether the runtime, which gets what arrives,
// carries it out is for the end-to-end tests to say.
//
// The file system's part of the way, which needs mounts, is tested in shim/share.
package carry

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nanoclaw/nanoclaw/annotations"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/guestagent/ocispec"
	"github.com/nanoclaw/nanoclaw/internal/fullspec"
)

var guest = ocispec.Guest{CgroupPath: "/containers/x", NetworkNamespace: "/run/netns/sandbox"}

// refused are the fields that a container is refused for, with the words by which
// the refusal names each.
var refused = map[string]struct {
	value any
	words string
}{
	"linux.devices":                  {[]any{map[string]any{"path": "/dev/kvm", "type": "c"}}, "--device"},
	"linux.netDevices":               {map[string]any{"eth0": map[string]any{}}, "linux.netDevices"},
	"linux.seccomp.listenerPath":     {"/run/x", "linux.seccomp.listenerPath"},
	"linux.seccomp.listenerMetadata": {"x", "linux.seccomp.listenerMetadata"},
	"hooks.prestart":                 {hook, "OCI hook"},
	"hooks.createRuntime":            {hook, "OCI hook"},
	"hooks.createContainer":          {hook, "OCI hook"},
	"hooks.startContainer":           {hook, "OCI hook"},
	"hooks.poststart":                {hook, "OCI hook"},
	"hooks.poststop":                 {hook, "OCI hook"},
	"windows":                        {map[string]any{}, "windows"},
	"solaris":                        {map[string]any{}, "solaris"},
	"vm":                             {map[string]any{}, "vm"},
	"zos":                            {map[string]any{}, "zos"},
	"freebsd":                        {map[string]any{}, "freebsd"},
}

var hook = []any{map[string]any{"path": "/bin/x"}}

// translated are the fields that mean something of the host's, and which the shim
// or the agent carries out in its own way.
var translated = map[string]string{
	"root.path":             "the place in the share where the file system is mounted",
	"mounts.source":         "the same, for a bind mount",
	"linux.cgroupsPath":     "the VM's own cgroup on the host; in the VM each container has one by its id",
	"linux.namespaces.path": "the network namespace is joined on the host; others are refused",
	"process.terminal":      "asked for in the request itself, which opens it",
}

// instead are values that get past checks which are not what is tested here.
var instead = map[string]any{
	"process.cwd":       "/x",
	"root.path":         "rootfs",
	"mounts.type":       "tmpfs",
	"linux.cgroupsPath": "/x",
	"linux.namespaces": []any{
		map[string]any{"type": "network", "path": "/run/netns/x"}, map[string]any{"type": "pid"}, map[string]any{"type": "ipc"},
		map[string]any{"type": "uts"}, map[string]any{"type": "mount"}, map[string]any{"type": "cgroup"},
		map[string]any{"type": "user"}, map[string]any{"type": "time"},
	},
	"mounts.destination": "/x",
	// Not one of the two values that mean no more than the memory limit says.
	"linux.resources.memory.swap": float64(9),
}

// through takes a document on its whole way. The names of what was left out on it
// come with it.
func through(t *testing.T, document any) (map[string][]any, []string, error) {
	t.Helper()
	raw, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(raw, &spec); err != nil {
		t.Fatal(err)
	}
	policy, err := annotations.Compile(annotations.Input{ID: "x", Spec: &spec, Annotations: spec.Annotations})
	if err != nil {
		return nil, nil, err
	}
	left := policy.LeftOut(&spec)
	narrowed := policy.Apply(&spec)
	root := *narrowed.Root
	root.Path = agent.ShareDir + "/x/rootfs"
	narrowed.Root = &root
	if raw, err = json.Marshal(narrowed); err != nil {
		t.Fatal(err)
	}
	fitted, dropped, err := ocispec.Container(raw, guest)
	if err != nil {
		return nil, nil, err
	}
	return leaves(t, fitted), append(left, dropped...), nil
}

func leaves(t *testing.T, v any) map[string][]any {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var document any
	if err := json.Unmarshal(raw, &document); err != nil {
		t.Fatal(err)
	}
	return fullspec.Leaves(document)
}

// lost returns the fields of before that are not in after with the same values and
// that nothing in left begins with the name of.
func lost(before, after map[string][]any, left []string) []string {
	var list []string
	for path, values := range before {
		arrived := !slices.ContainsFunc(values, func(v any) bool {
			return !slices.ContainsFunc(after[path], func(w any) bool { return reflect.DeepEqual(v, w) })
		})
		if _, ok := translated[path]; !arrived && !ok && !named(path, left) {
			list = append(list, path)
		}
	}
	slices.Sort(list)
	return list
}

// named reports whether a line begins with the field's name, or with that of what
// it is a part of.
func named(path string, lines []string) bool {
	for _, line := range lines {
		name := strings.TrimSuffix(strings.Fields(line)[0], ":")
		if path == name || strings.HasPrefix(path, name+".") {
			return true
		}
	}
	return false
}

func TestEveryFieldOfAContainer(t *testing.T) {
	values := map[string]any{}
	for path, r := range refused {
		values[path] = nil
		values := map[string]any{}
		for path, v := range instead {
			values[path] = v
		}
		for other := range refused {
			values[other] = nil
		}
		values[path] = r.value
		_, _, err := through(t, fullspec.Document[specs.Spec](values))
		if err == nil || !strings.Contains(err.Error(), r.words) {
			t.Errorf("%s is to be refused, by the name of %q: %v", path, r.words, err)
		}
	}
	values["hooks"] = nil
	for path, v := range instead {
		values[path] = v
	}
	document := fullspec.Document[specs.Spec](values)
	after, left, err := through(t, document)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lost(fullspec.Leaves(document), after, left) {
		t.Errorf("%s is lost, and nothing says so", path)
	}
	t.Logf("left out:\n%s", strings.Join(left, "\n"))
}

// The host's devices, which --privileged brings, stay on the host.
func TestDevicesOfPrivileged(t *testing.T) {
	values := map[string]any{"linux.resources.devices": []any{map[string]any{"allow": true, "access": "rwm"}}}
	for path, v := range instead {
		values[path] = v
	}
	for path := range refused {
		values[path] = nil
	}
	values["hooks"] = nil
	values["linux.devices"] = refused["linux.devices"].value
	document := fullspec.Document[specs.Spec](values)
	after, left, err := through(t, document)
	if err != nil {
		t.Fatal(err)
	}
	if len(after["linux.devices.path"]) > 0 || !named("linux.devices", left) {
		t.Errorf("devices in the VM: %v; left out: %q", after["linux.devices.path"], left)
	}
}

func TestEveryFieldOfAnExec(t *testing.T) {
	document := fullspec.Document[specs.Process](map[string]any{"cwd": "/x"})
	raw, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	p, left, err := ocispec.Process(raw, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lost(under("process", fullspec.Leaves(document)), under("process", leaves(t, p)), left) {
		t.Errorf("%s is lost, and nothing says so", path)
	}
}

func TestEveryFieldOfAnUpdate(t *testing.T) {
	document := fullspec.Document[specs.LinuxResources](map[string]any{"memory.swap": float64(9)})
	raw, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	r, left, err := ocispec.Resources(raw, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lost(under("linux.resources", fullspec.Leaves(document)), under("linux.resources", leaves(t, r)), left) {
		t.Errorf("%s is lost, and nothing says so", path)
	}
}

func under(name string, leaves map[string][]any) map[string][]any {
	m := map[string][]any{}
	for path, v := range leaves {
		m[name+"."+path] = v
	}
	return m
}
