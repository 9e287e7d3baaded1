package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/hypervisor"
	"github.com/nanoclaw/nanoclaw/shim/network"
)

func TestInfoOfRunDirectories(t *testing.T) {
	base := filepath.Join(t.TempDir(), "run")
	if all, err := List(base); err != nil || len(all) != 0 {
		t.Errorf("%v, %v of a host that ran nothing", all, err)
	}
	want := Info{ID: "c1", Namespace: "moby", Agent: "sales", Policy: "d1", Mode: "enforce", Hypervisor: "qemu", CPUs: 2, Memory: 1 << 30, Began: time.Now().UTC().Round(0)}
	d := newRundir(base, "moby", "c1")
	if err := d.make(want); err != nil {
		t.Fatal(err)
	}
	// One that is being made, and something that is none.
	if err := errors.Join(os.Mkdir(filepath.Join(base, "new"), 0o700), os.WriteFile(filepath.Join(base, "file"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	all, err := List(base)
	if err != nil || len(all) != 1 || all[0] != want {
		t.Fatalf("%+v, %v; want %+v", all, err, want)
	}
	// A broken one does not hide the others.
	broken := newRundir(base, "moby", "c2")
	if err := errors.Join(os.Mkdir(string(broken), 0o700), os.WriteFile(broken.record(), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if all, err := List(base); err == nil || len(all) != 1 {
		t.Errorf("%v, %v; want an error and the other one", all, err)
	}

	bundle := t.TempDir()
	if err := remember(bundle, baseFile, base); err != nil {
		t.Fatal(err)
	}
	left, err := Destroy(bundle, "moby", "c1")
	if err != nil || left == nil || *left != want {
		t.Errorf("%+v, %v; want what was there", left, err)
	}
	if left, err := Destroy(bundle, "moby", "c1"); err != nil || left != nil {
		t.Errorf("%+v, %v of what is gone", left, err)
	}
}

// Each container of a VM is listed, with a policy of its own, and one that is gone
// is not.
func TestContainersOfAVM(t *testing.T) {
	base := filepath.Join(t.TempDir(), "run")
	d := newRundir(base, "moby", "c1")
	vm := Info{ID: "c1", Namespace: "moby", Agent: "sales", Policy: "d1", Mode: "audit", Address: "unix:///s"}
	if err := d.make(vm); err != nil {
		t.Fatal(err)
	}
	p, err := annotations.ForAgent(nil, "")
	if err != nil {
		t.Fatal(err)
	}
	ids := func() string {
		t.Helper()
		all, err := List(base)
		if err != nil {
			t.Fatal(err)
		}
		var text []string
		for _, c := range all {
			text = append(text, c.ID+":"+c.Sandbox+":"+c.Agent+":"+string(c.Mode)+":"+c.Address)
		}
		return strings.Join(text, " ")
	}
	check := func(want string) {
		t.Helper()
		if got := ids(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if err := d.notePolicy("c1", p); err != nil {
		t.Fatal(err)
	}
	check("c1::sales:audit:unix:///s")
	vm.Shared = true
	if err := errors.Join(d.write(vm), d.notePolicy("c2", p)); err != nil {
		t.Fatal(err)
	}
	check("c1::sales:audit:unix:///s c2:c1::enforce:unix:///s")
	if err := d.forgetPolicy("c1"); err != nil {
		t.Fatal(err)
	}
	check("c2:c1::enforce:unix:///s")
	if owner, err := Owner(base, "moby", "/proc/self/ns/net"); err != nil || owner != "" {
		t.Errorf("%q, %v", owner, err)
	}
	if err := d.forgetPolicy("c2"); err != nil {
		t.Fatal(err)
	}
	check("c1::sales:audit:unix:///s")
	if err := os.WriteFile(d.policy("c3"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := List(base); err == nil || len(all) != 1 || all[0].ID != "c3" {
		t.Errorf("%v, %v of a policy that cannot be read", all, err)
	}
}

func TestOwner(t *testing.T) {
	base := t.TempDir()
	own, err := network.Identify("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for id, info := range map[string]Info{
		"x":     {Namespace: "moby", Network: own},
		"other": {Namespace: "moby"},
		"z":     {Namespace: "k8s.io", Network: own},
	} {
		info.ID = id
		if err := newRundir(base, info.Namespace, id).make(info); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{"/proc/self/ns/net": "x", "/proc/self/ns/pid": ""} {
		if got, err := Owner(base, "moby", path); err != nil || got != want {
			t.Errorf("the owner of %s is %q, %v; want %q", path, got, err, want)
		}
	}
	if _, err := Owner(base, "moby", "/no/such/namespace"); err == nil {
		t.Error("a namespace that is not there has an owner")
	}
}

// A VM that another container has joined outlives the first one, as long as its
// shim lives.
func TestSharedSandboxIsNotDestroyed(t *testing.T) {
	base, bundle, joined := t.TempDir(), t.TempDir(), t.TempDir()
	if err := errors.Join(remember(bundle, baseFile, base), remember(joined, baseFile, base), remember(joined, ownerFile, "x")); err != nil {
		t.Fatal(err)
	}
	d := newRundir(base, "moby", "x")
	info := Info{ID: "x", Namespace: "moby"}
	if err := d.make(info); err != nil {
		t.Fatal(err)
	}
	lock, err := d.hold()
	if err != nil {
		t.Fatal(err)
	}
	info.Shared = true
	if err := d.write(info); err != nil {
		t.Fatal(err)
	}
	if left, err := Destroy(bundle, "moby", "x"); err != nil || left != nil {
		t.Errorf("destroyed %+v, %v", left, err)
	}
	if err := d.make(info); err == nil {
		t.Error("the folder of a VM in use was taken")
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := Destroy(joined, "moby", "y"); err != nil || left == nil || left.ID != "x" {
		t.Errorf("%+v, %v of a VM whose shim is gone", left, err)
	}
}

// exited is a VM that has ended in some way.
type exited struct {
	hypervisor.VM
	cause hypervisor.Cause
}

func (e exited) Exit() hypervisor.Exit { return hypervisor.Exit{Cause: e.cause} }

func TestEnd(t *testing.T) {
	for cause, want := range map[hypervisor.Cause]End{
		hypervisor.CauseGuest:   EndGuest,
		hypervisor.CauseReset:   EndGuest,
		hypervisor.CausePanic:   EndPanic,
		hypervisor.CauseStopped: EndStopped,
		hypervisor.CauseFailed:  EndVMM,
		"some new cause":        EndVMM,
	} {
		s := &Sandbox{vm: exited{cause: cause}}
		if got := s.End(); got != want {
			t.Errorf("%s: %s, want %s", cause, got, want)
		}
		// What was seen to fail first decides: the VM was then stopped for it.
		s.report(EndShare, errors.New("gone"))
		s.report(EndAgent, errors.New("gone too"))
		if got := s.End(); got != EndShare {
			t.Errorf("%s, want %s", got, EndShare)
		}
	}
}
