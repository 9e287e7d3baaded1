package sandbox

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nanoclaw/nanoclaw/annotations"
)

func TestPolicyOfARunningContainer(t *testing.T) {
	base := filepath.Join(t.TempDir(), "run")
	d := newRundir(base, "moby", "c1")
	if err := d.make(Info{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	p, err := annotations.ForAgent(nil, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"c1", "c2", "d3"} {
		if err := d.notePolicy(id, p); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Policy(base, "d")
	if err != nil || got.Digest() != p.Digest() {
		t.Errorf("%+v, %v", got, err)
	}
	for _, id := range []string{"c", "x", "", "../c1", "*"} {
		if got, err := Policy(base, id); err == nil {
			t.Errorf("%q has the policy %+v", id, got)
		}
	}
	if err := d.forgetPolicy("d3"); err != nil {
		t.Fatal(err)
	}
	if err := d.forgetPolicy("d3"); err != nil {
		t.Errorf("forgotten already: %v", err)
	}
	if _, err := Policy(base, "d"); err == nil {
		t.Error("it was not forgotten")
	}
}

// TestNewNamespace looks at the host's side of a container that has no IPv6: the
// engine would give it addresses if there were any there.
func TestNewNamespace(t *testing.T) {
	needRoot(t)
	for _, sysctls := range []map[string]string{nil, {"net.ipv6.conf.all.disable_ipv6": "1"}, {"net.ipv6.conf.all.disable_ipv6": "0", "net.ipv4.ip_forward": "1"}} {
		ns, err := newNamespace(sysctls)
		if err != nil {
			t.Fatal(err)
		}
		var off, forwards []byte
		err = ns.Do(func() (err error) {
			forwards, err = os.ReadFile("/proc/sys/net/ipv4/ip_forward")
			if err == nil {
				off, err = os.ReadFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		want := "0\n"
		if sysctls["net.ipv6.conf.all.disable_ipv6"] == "1" {
			want = "1\n"
		}
		if string(off) != want {
			t.Errorf("with %v, IPv6 is off: %q", sysctls, off)
		}
		if string(forwards) != "0\n" {
			t.Errorf("with %v, the host's side forwards: %q", sysctls, forwards)
		}
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	}
}
