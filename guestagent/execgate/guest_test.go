package execgate

import (
	"os"
	"testing"

	"github.com/nanoclaw/nanoclaw/test/inguest"
)

func TestMain(m *testing.M) { inguest.Main(m) }

// TestInVM runs the tests of this package that need the guest's kernel.
func TestInVM(t *testing.T) {
	if inguest.Inside() {
		t.Skip("this is the VM")
	}
	inguest.Run(t, "^TestGuest", inguest.Options{})
}

func TestGuestLoad(t *testing.T) {
	if !inguest.Inside() {
		t.Skip("TestInVM runs it")
	}
	if err := os.MkdirAll(containers, 0o755); err != nil { //nolint:gosec // as the agent makes it
		t.Fatal(err)
	}
	p := &Policy{Image: &Reason{}, Rules: []Rule{{Action: Hide, Path: "/x"}, {Action: ReadOnly, Path: "/y"}, {Action: Deny, Path: "/z", Argv: []string{"a"}}}}
	g, err := Load(p, nil)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	for name, program := range g.coll.Programs {
		info, err := program.Info()
		if err != nil {
			t.Fatal(err)
		}
		// What a program costs when it is loaded.
		if n, ok := info.VerifiedInstructions(); ok {
			t.Logf("%s: the kernel looked at %d instructions", name, n)
		}
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	// An exec may end after its container.
	g.Settle()
	if err := g.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
}
