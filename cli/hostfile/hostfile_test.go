package hostfile

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/annotations"
)

func TestResolve(t *testing.T) {
	p, err := annotations.ForAgent(nil, "")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.MkdirAll(in("home/.ssh"), 0o755), os.WriteFile(in("file"), nil, 0o600), os.Symlink("home", in("link")), unix.Mkfifo(in("fifo"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	listener, err := net.Listen("unix", in("sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	for source, want := range map[string]annotations.Source{
		in("home"): {Path: in("home"), Kind: annotations.KindDir}, in("link"): {Path: in("home"), Kind: annotations.KindDir},
		in("file"): {Path: in("file"), Kind: annotations.KindFile}, in("fifo"): {Path: in("fifo"), Kind: annotations.KindFIFO},
		in("sock"): {Path: in("sock"), Kind: annotations.KindSocket}, "/dev/null": {Path: "/dev/null", Kind: annotations.KindChar, Major: 1, Minor: 3},
	} {
		s, err := Resolve(source, p)
		if err != nil || s.Asked != source || s.Path != want.Path || s.Kind != want.Kind || s.Major != want.Major || s.Minor != want.Minor {
			t.Errorf("%s: %+v, %v", source, s, err)
		}
		if isHome := s.Path == in("home"); isHome != (len(s.Holds) == 1 && s.Holds[0] == ".ssh") {
			t.Errorf("%s holds %v", source, s.Holds)
		}
	}
	if _, err := Resolve(in("nothing"), p); err == nil {
		t.Error("found what is not there")
	}
}
