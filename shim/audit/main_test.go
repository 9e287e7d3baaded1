package audit

import (
	"fmt"
	"os"
	"testing"

	"github.com/nanoclaw/nanoclaw/internal/testns"
)

// asWriter is set in the processes that a test starts to write and be killed.
const asWriter = "NANOCLAW_AUDIT_TEST_WRITER"

// TestMain runs the tests of root in a mount namespace of their own, where a full
// disk can be made.
func TestMain(m *testing.M) {
	if dir := os.Getenv(asWriter); dir != "" {
		writeForEver(dir)
	}
	if os.Getuid() == 0 {
		testns.Main(m)
	}
	os.Exit(m.Run())
}

// writeForEver writes records until it is killed.
func writeForEver(dir string) {
	l := NewLog(Options{Dir: dir, MaxSize: 1 << 20, Keep: 100})
	for n := 0; ; n++ {
		if err := l.Append(event(fmt.Sprint(os.Getpid()), n)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(n)
	}
}

func event(container string, n int) Record {
	return Record{Container: container, Entry: Entry{
		Event: Exec, Decision: Deny, Rule: "exec.deny",
		Subject: &Subject{Argv: []string{"/bin/prog", fmt.Sprint(n)}},
	}}
}
