package verify

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func put(t *testing.T, file, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(content), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func TestSearch(t *testing.T) {
	dir := t.TempDir()
	one, two := newToken("ONE"), newToken("TWO")
	put(t, filepath.Join(dir, "a"), "before "+string(one)+" after")
	put(t, filepath.Join(dir, "deep/er/b"), string(two))
	put(t, filepath.Join(dir, "own/c"), string(one))
	put(t, filepath.Join(dir, "none"), prefix)
	// A pipe is not waited for, a link not followed.
	if err := errors.Join(unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600), os.Symlink(filepath.Join(dir, "a"), filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	found, err := search([]string{dir, filepath.Join(dir, "missing")}, []string{filepath.Join(dir, "own")}, time.Time{}, one, two)
	want := []where{{one, filepath.Join(dir, "a")}, {two, filepath.Join(dir, "deep/er/b")}}
	if err != nil || !slices.Equal(found, want) {
		t.Errorf("%v, %v; want %v", found, err, want)
	}
	if found, err := search([]string{filepath.Join(dir, "a")}, nil, time.Time{}, one); err != nil || len(found) != 1 {
		t.Errorf("in a file by itself: %v, %v", found, err)
	}
	if found, err := search([]string{dir}, nil, time.Now().Add(time.Hour), one); err != nil || len(found) != 0 {
		t.Errorf("of what changes in an hour: %v, %v", found, err)
	}
}

func TestSearchKeepsToTheFileSystem(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting takes root")
	}
	dir, one := t.TempDir(), newToken("ONE")
	other := filepath.Join(dir, "other")
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", other, "tmpfs", 0, ""); err != nil {
		t.Skip("mounting is not possible here:", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(other, unix.MNT_DETACH) })
	put(t, filepath.Join(other, "a"), string(one))
	if found, err := search([]string{dir}, nil, time.Time{}, one); err != nil || len(found) != 0 {
		t.Errorf("%v, %v", found, err)
	}
	// As a root of its own it is searched; and a mount is seen in whatever namespace.
	if found, err := search([]string{other}, nil, time.Time{}, one); err != nil || len(found) != 1 {
		t.Errorf("%v, %v", found, err)
	}
	if found, err := namespacesWith(other); err != nil || len(found) == 0 {
		t.Errorf("the mount was not found: %v, %v", found, err)
	}
	if found, err := namespacesWith(other + "-none"); err != nil || len(found) != 0 {
		t.Errorf("%v, %v", found, err)
	}
}

// A token may lie across two reads.
func TestInStream(t *testing.T) {
	one := newToken("ONE")
	for _, before := range []int{0, 1, 1<<20 - 10, 1 << 20, 3<<20 - 5} {
		found, err := inStream("it", strings.NewReader(strings.Repeat("x", before)+string(one)+"x"), []token{one, newToken("TWO")})
		if err != nil || len(found) != 1 {
			t.Errorf("after %d bytes: %v, %v", before, found, err)
		}
	}
	if found, err := inStream("it", strings.NewReader(string(one[:len(one)-1])), []token{one}); err != nil || len(found) != 0 {
		t.Errorf("a part of it: %v, %v", found, err)
	}
}

func FuzzInStream(f *testing.F) {
	one := newToken("ONE")
	f.Add([]byte("x"), []byte("y"))
	f.Fuzz(func(t *testing.T, before, after []byte) {
		found, err := inStream("it", strings.NewReader(string(before)+string(one)+string(after)), []token{one})
		if err != nil || len(found) != 1 {
			t.Fatalf("%v, %v", found, err)
		}
	})
}

func TestProcesses(t *testing.T) {
	mark := string(newToken("MARK"))
	child := exec.Command("sh", "-c", "sleep 60; true", mark)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Process.Kill(); _ = child.Wait() })
	var found []process
	for range 100 { // until it is what it is to be
		var err error
		if found, err = processes(mark); err != nil {
			t.Fatal(err)
		}
		if len(found) > 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if len(found) != 1 || found[0].pid != child.Process.Pid || !strings.Contains(found[0].String(), mark) {
		t.Errorf("%v", found)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	own := process{pid: os.Getpid()}
	if !writableFD(own, itoa(f.Fd())) {
		t.Error("a file that was opened for writing cannot be written")
	}
	r, err := os.Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if writableFD(own, itoa(r.Fd())) {
		t.Error("a file that was opened for reading can be written")
	}
}
