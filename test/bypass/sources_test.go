package bypass

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/shim/share"
	"github.com/nanoclaw/nanoclaw/test/inguest"
)

// place is the host as an attempt to have a forbidden place mounted finds it:
// the folder forbidden, with the file key in it, and beside it allowed.
type place struct {
	*testing.T
	top, forbidden, allowed string
}

func (p *place) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *place) bind(from, to string) {
	p.Helper()
	p.must(os.MkdirAll(to, 0o755))
	p.must(unix.Mount(from, to, "", unix.MS_BIND, ""))
	p.Cleanup(func() { p.must(unix.Unmount(to, unix.MNT_DETACH)) })
}

func (p *place) key(dir string) string {
	p.Helper()
	p.must(os.MkdirAll(dir, 0o755))
	p.must(os.WriteFile(filepath.Join(dir, "key"), []byte("key"), 0o600))
	return dir
}

// sources are ways to name a forbidden place as the source of a mount. Each
// returns the source, and where in it the key is.
var sources = map[string]func(p *place) (source, key string){
	"direct": func(p *place) (string, string) { return p.forbidden, "key" },
	"file":   func(p *place) (string, string) { return p.forbidden + "/key", "" },
	"below":  func(p *place) (string, string) { return p.key(p.forbidden + "/sub"), "key" },
	"above":  func(p *place) (string, string) { return p.top, "forbidden/key" },
	"dot-dot": func(p *place) (string, string) {
		return p.allowed + "/../forbidden", "key"
	},
	"symlink": func(p *place) (string, string) {
		p.must(os.Symlink(p.forbidden, p.allowed+"/l"))
		return p.allowed + "/l", "key"
	},
	"symlink and dot-dot": func(p *place) (string, string) {
		p.must(os.MkdirAll(p.forbidden+"/sub", 0o755))
		p.must(os.Symlink("../forbidden/sub", p.allowed+"/l"))
		return p.allowed + "/l/..", "key"
	},
	"dots and slashes": func(p *place) (string, string) {
		return p.allowed + "/..//./forbidden/.", "key"
	},
	"symlink in the middle": func(p *place) (string, string) {
		p.must(os.Symlink("..", p.allowed+"/l"))
		return p.allowed + "/l/forbidden", "key"
	},
	"symlink to a symlink": func(p *place) (string, string) {
		p.must(os.Symlink("second", p.allowed+"/first"))
		p.must(os.Symlink("../forbidden", p.allowed+"/second"))
		return p.allowed + "/first", "key"
	},
	"symlink to what is above": func(p *place) (string, string) {
		p.must(os.Symlink(p.top, p.allowed+"/l"))
		return p.allowed + "/l", "forbidden/key"
	},
	"bind mount of a file": func(p *place) (string, string) {
		to := p.allowed + "/file"
		p.must(os.WriteFile(to, nil, 0o600))
		p.must(unix.Mount(p.forbidden+"/key", to, "", unix.MS_BIND, ""))
		p.Cleanup(func() { p.must(unix.Unmount(to, unix.MNT_DETACH)) })
		return to, ""
	},
	"bind mount of a bind mount": func(p *place) (string, string) {
		p.bind(p.forbidden, p.top+"/first")
		p.bind(p.top+"/first", p.top+"/second")
		return p.top + "/second", "key"
	},
	"mounted inside, below": func(p *place) (string, string) {
		p.bind(p.key(p.forbidden+"/sub"), p.allowed+"/deep/in")
		return p.allowed, "deep/in/key"
	},
	"bind mount": func(p *place) (string, string) {
		p.bind(p.forbidden, p.top+"/other")
		return p.top + "/other", "key"
	},
	"bind mount of what is below": func(p *place) (string, string) {
		p.bind(p.key(p.forbidden+"/sub"), p.top+"/other")
		return p.top + "/other", "key"
	},
	"bind mount of what is above": func(p *place) (string, string) {
		outer := filepath.Join(p.allowed, "outer")
		p.bind(p.top, outer)
		return outer, "forbidden/key"
	},
	"mounted inside": func(p *place) (string, string) {
		p.bind(p.forbidden, p.allowed+"/in")
		return p.allowed, "in/key"
	},
	"folder of an engine's socket": func(p *place) (string, string) {
		l, err := net.Listen("unix", p.allowed+"/docker.sock")
		p.must(err)
		p.Cleanup(func() { _ = l.Close() })
		return p.key(p.allowed), "key"
	},
	"folder of credentials": func(p *place) (string, string) {
		p.key(p.allowed + "/.ssh")
		return p.allowed, ".ssh/key"
	},
	"/var/run for /run": func(p *place) (string, string) {
		name := fmt.Sprintf("nanoclaw-bypass-%d", os.Getpid())
		p.key("/run/" + name)
		p.Cleanup(func() { p.must(os.RemoveAll("/run/" + name)) })
		return "/var/run/" + name, "key"
	},
}

func newPlace(t *testing.T) *place {
	top := t.TempDir()
	p := &place{T: t, top: top, forbidden: filepath.Join(top, "forbidden"), allowed: filepath.Join(top, "allowed")}
	p.key(p.forbidden)
	p.must(os.Mkdir(p.allowed, 0o755))
	return p
}

// judge compiles the policy that forbids the place, or one that forbids none.
func (p *place) judge(source string, held bool) *annotations.Policy {
	p.Helper()
	policy, err := annotations.Compile(annotations.Input{ID: "c", Spec: specOf(bind(source, "/w")), Private: []string{p.forbidden}})
	p.must(err)
	if !held {
		policy.Mounts.Refuse = nil
	}
	return policy
}

// Whatever a forbidden place is called, it is refused, and shared where it is
// not forbidden.
func TestSources(t *testing.T) {
	if inguest.Inside() || os.Getuid() != 0 {
		t.Skip("only root, on the host, can make mounts")
	}
	for name, make := range sources {
		t.Run(name, func(t *testing.T) {
			for _, held := range []bool{true, false} {
				t.Run(map[bool]string{true: "on", false: "off"}[held], func(t *testing.T) {
					p, s := newPlace(t), newShare(t)
					source, key := make(p)
					err := add(t, s, "c", specOf(bind(source, "/w")), p.judge(source, held))
					var refusal *annotations.Refusal
					if held && !errors.As(err, &refusal) {
						t.Errorf("not refused: %v", err)
					}
					if !held {
						p.must(err)
						if got := shown(s, "c", key); got != "key" {
							t.Errorf("not shared without the rule, which proves nothing: %q", got)
						}
					}
				})
			}
		})
	}
}

func shown(s *share.Share, id, key string) string {
	got, err := os.ReadFile(filepath.Join(s.Dir(), id, "mounts/0", key))
	if err != nil {
		return err.Error()
	}
	return string(got)
}

// A name that means another thing from one moment to the next is judged by what
// it meant when it was opened, and that is what is mounted.
func TestSourceIsExchanged(t *testing.T) {
	if inguest.Inside() || os.Getuid() != 0 {
		t.Skip("only root, on the host, can make mounts")
	}
	for _, held := range []bool{true, false} {
		t.Run(map[bool]string{true: "on", false: "off"}[held], func(t *testing.T) {
			p, s := newPlace(t), newShare(t)
			source, other := p.top+"/source", p.top+"/other"
			p.must(os.Symlink(p.allowed, source))
			p.must(os.Symlink(p.forbidden, other))
			policy := p.judge(source, held)
			stop, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				for {
					select {
					case <-stop:
						return
					default:
						_ = unix.Renameat2(unix.AT_FDCWD, source, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE)
					}
				}
			}()
			through, shared, refused := 0, 0, 0
			for n, end := 0, time.Now().Add(3*time.Second); time.Now().Before(end); n++ {
				id := fmt.Sprintf("c%d", n)
				if err := add(t, s, id, specOf(bind(source, "/w")), policy); err != nil {
					refused++
					continue
				}
				shared++
				if shown(s, id, "key") == "key" {
					through++
				}
				p.must(s.RemoveContainer(id))
			}
			close(stop)
			<-done
			t.Logf("shared %d times, the forbidden place %d of them; refused %d times", shared, through, refused)
			if held && (through > 0 || shared == 0 || refused == 0) {
				t.Error("not held, or not tried")
			}
			if !held && through == 0 {
				t.Error("not shared without the rule, which proves nothing")
			}
		})
	}
}
