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
	inguest.Run(t, "^TestGuest", nil)
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
	t.Logf("%d programs", len(g.links))
	if err := g.Close(); err != nil {
		t.Error(err)
	}
}
