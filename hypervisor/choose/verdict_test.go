package choose

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func kept(t *testing.T) verdicts { return verdicts{dir: t.TempDir(), name: "x"} }

func (v verdicts) path() string { return filepath.Join(v.dir, "kvm-verdict-"+v.name+".json") }

func TestVerdictIsKeptUntilSomethingChanges(t *testing.T) {
	v := kept(t)
	trials := 0
	trial := func() (finding, error) { trials++; return finding{problem: "it does not boot"}, nil }
	for range 3 {
		if why, err := v.get("a", trial); err != nil || why != "it does not boot" {
			t.Fatalf("got %q, %v", why, err)
		}
	}
	if trials != 1 {
		t.Fatalf("%d trials for one key, want 1", trials)
	}
	if _, err := v.get("b", trial); err != nil || trials != 2 {
		t.Fatalf("%d trials after a change, %v; want 2", trials, err)
	}
}

// A host that was busy is not without KVM until it boots again.
func TestAPassingProblemIsTriedAgain(t *testing.T) {
	v := kept(t)
	slow := func() (finding, error) { return finding{"slow", true}, nil }
	well := func() (finding, error) { return finding{}, nil }
	for _, trial := range []func() (finding, error){slow, well} {
		if why, err := v.get("a", trial); err != nil || why != "slow" {
			t.Fatalf("got %q, %v", why, err)
		}
	}
	now := time.Now()
	for until, want := range map[time.Time]bool{
		{}: true, now.Add(time.Minute): true, now: false, now.Add(-time.Minute): false, now.Add(2 * passes): false,
	} {
		if got := (verdict{Key: "a", Until: until}).holds("a", now); got != want {
			t.Errorf("until %v: %v", until, got)
		}
	}
	past, err := json.Marshal(verdict{Key: "a", Problem: "slow", Until: now.Add(-time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(v.path(), past, 0o600); err != nil {
		t.Fatal(err)
	}
	if why, err := v.get("a", well); err != nil || why != "" {
		t.Fatalf("after its time: %q, %v", why, err)
	}
}

func TestOnlyOneOfManyTries(t *testing.T) {
	v := kept(t)
	var trials atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			_, err := v.get("a", func() (finding, error) {
				trials.Add(1)
				time.Sleep(20 * time.Millisecond)
				return finding{}, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := trials.Load(); n != 1 {
		t.Fatalf("%d trials", n)
	}
}

func TestATrialThatFoundNothingOutIsNotKept(t *testing.T) {
	v := kept(t)
	cut := errors.New("cut short")
	if _, err := v.get("a", func() (finding, error) { return finding{}, cut }); !errors.Is(err, cut) {
		t.Fatalf("got %v", err)
	}
	if why, err := v.get("a", func() (finding, error) { return finding{problem: "no"}, nil }); err != nil || why != "no" {
		t.Fatalf("got %q, %v", why, err)
	}
}

func TestAVerdictOfOthersIsNotBelieved(t *testing.T) {
	const good = `{"key":"a","problem":"no"}`
	for name, spoil := range map[string]func(path string) error{
		"cut short": func(p string) error { return os.WriteFile(p, []byte(`{"key":`), 0o600) },
		"more":      func(p string) error { return os.WriteFile(p, []byte(good+good), 0o600) },
		"unknown":   func(p string) error { return os.WriteFile(p, []byte(`{"key":"a","problem":"no","x":1}`), 0o600) },
		"writable":  func(p string) error { return errors.Join(os.WriteFile(p, []byte(good), 0o600), os.Chmod(p, 0o622)) },
		"other key": func(p string) error { return os.WriteFile(p, []byte(`{"key":"b","problem":"no"}`), 0o600) },
		"a link": func(p string) error {
			return errors.Join(os.WriteFile(p+"x", []byte(good), 0o600), os.Symlink(p+"x", p))
		},
		"really big": func(p string) error { return os.WriteFile(p, append(make([]byte, maxVerdict), good...), 0o600) },
	} {
		v := kept(t)
		if err := spoil(v.path()); err != nil {
			t.Fatal(err)
		}
		if why, err := v.get("a", func() (finding, error) { return finding{}, nil }); err != nil || why != "" {
			t.Errorf("%s: got %q, %v", name, why, err)
		}
	}
}

func TestVerdictKeyFollowsTheFiles(t *testing.T) {
	name := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(name, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	first, err := verdictKey(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte("22"), 0o600); err != nil {
		t.Fatal(err)
	}
	second, err := verdictKey(name)
	if err != nil || first == second {
		t.Fatalf("the key did not change with the file: %v", err)
	}
	if _, err := verdictKey(name + "absent"); err == nil {
		t.Fatal("a file that is absent has a key")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"key":"a","problem":""}`))
	f.Add([]byte(`{"key":"a"} {}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if v, err := parse(data); err == nil && v.Key == "" {
			t.Fatalf("accepted %q", data)
		}
	})
}
