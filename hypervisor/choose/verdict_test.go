package choose

import (
	"os"
	"path/filepath"
	"testing"
)

func TestVerdictIsKeptUntilSomethingChanges(t *testing.T) {
	v := verdicts{dir: t.TempDir()}
	trials := 0
	trial := func() string { trials++; return "it does not boot" }
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

func TestABrokenVerdictIsNotBelieved(t *testing.T) {
	v := verdicts{dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(v.dir, "kvm-verdict.json"), []byte(`{"key":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if why, err := v.get("a", func() string { return "" }); err != nil || why != "" {
		t.Fatalf("got %q, %v", why, err)
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
