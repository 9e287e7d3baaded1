package vmm

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConsoleKeepsBothEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	if err := os.WriteFile(path, []byte("earlier\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	con, err := OpenConsole(path)
	if err != nil {
		t.Fatal(err)
	}
	con.limit = 64 << 10
	flood := strings.NewReader("first\n" + strings.Repeat("x", 300<<10) + "last\n")
	con.Copy(flood)
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(got)) > con.limit {
		t.Errorf("%d bytes, more than %d", len(got), con.limit)
	}
	if !bytes.HasPrefix(got, []byte("earlier\nfirst\n")) || !bytes.HasSuffix(got, []byte("last\n")) ||
		bytes.Count(got, []byte(dropped)) != 1 {
		t.Errorf("the ends are %q and %q", got[:20], got[len(got)-20:])
	}
}

func TestConsoleOfAFullFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	if err := os.WriteFile(path, make([]byte, 100<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	con, err := OpenConsole(path)
	if err != nil {
		t.Fatal(err)
	}
	con.limit = 64 << 10
	con.Copy(strings.NewReader("new"))
	if st, err := os.Stat(path); err != nil || st.Size() > con.limit {
		t.Fatalf("%v, %v", st.Size(), err)
	}
}
