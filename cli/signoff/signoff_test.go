package signoff

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nanoclaw/nanoclaw/annotations"
)

func TestWriteAndRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "policy.yaml.signed-off")
	if _, err := Read(path); !errors.Is(err, ErrNone) {
		t.Errorf("of nothing: %v", err)
	}
	want := Record{Policy: "/p", Digest: "d", By: "Ada", Login: "ada", At: time.Now().UTC().Round(time.Second)}
	for range 2 { // the second replaces the first
		if err := write(path, want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Read(path)
	if err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if files, err := os.ReadDir(filepath.Dir(path)); err != nil || len(files) != 1 {
		t.Errorf("%v, %v", files, err)
	}
	for _, name := range []string{"", "\x1b", string(make([]byte, 300))} {
		if err := write(path, Record{Digest: "d", By: name, At: time.Now()}); err == nil {
			t.Errorf("%q has signed", name)
		}
	}
}

func TestOnlyRootsOwnFileCounts(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	good := Record{Digest: "d", By: "Ada", At: time.Now()}
	if err := write(path, good); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(link); err == nil {
		t.Error("a link was read")
	}
	for _, mode := range []os.FileMode{0o620, 0o602, 0o640} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path); err == nil {
			t.Errorf("a file of mode %o was read", mode)
		}
	}
	if os.Geteuid() == 0 {
		if err := errors.Join(os.Chmod(path, 0o600), os.Chown(path, 12345, 0)); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path); err == nil {
			t.Error("another user's file was read")
		}
	}
}

func TestDigest(t *testing.T) {
	one, err := annotations.ParseFile("p", []byte("version: 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	two, err := annotations.ParseFile("p", []byte("version: 1 # seen\n"))
	if err != nil {
		t.Fatal(err)
	}
	if Digest(nil) != Baseline || Digest(one) == Digest(two) || len(Digest(one)) != 64 {
		t.Errorf("%s, %s, %s", Digest(nil), Digest(one), Digest(two))
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"policy":"/p","digest":"d","by":"Ada","at":"2026-01-31T12:00:00Z"}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"digest":"d","by":"\u001b[2J","at":"2026-01-31T12:00:00Z"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parse("s", data)
		if err == nil && (r.Digest == "" || r.By == "" || r.At.IsZero()) {
			t.Fatalf("%q gives %+v", data, r)
		}
	})
}
