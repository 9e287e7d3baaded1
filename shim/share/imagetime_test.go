package share

import (
	"errors"
	"testing"

	"github.com/moby/sys/mountinfo"
)

func TestUpperDir(t *testing.T) {
	for options, want := range map[string]string{
		"rw,lowerdir=/a:/b,upperdir=/c/diff,workdir=/c/work": "/c/diff",
		"rw,lowerdir=l/A:l/B,upperdir=ID/diff,workdir=ID/w":  "/var/lib/docker/overlay2/ID/diff",
		"ro,lowerdir=/a:/b": "",
	} {
		m := &mountinfo.Info{Mountpoint: "/var/lib/docker/overlay2/ID/merged", VFSOptions: options}
		if got := upperDir(m); got != want {
			t.Errorf("upperDir(%q) = %q, want %q", options, got, want)
		}
	}
}

func TestImageTimeOfAFolder(t *testing.T) {
	if _, err := ImageTime(t.TempDir()); !errors.Is(err, ErrNoImageTime) {
		t.Errorf("a folder that is no overlay: %v", err)
	}
}

func TestBirth(t *testing.T) {
	at, err := birth(t.TempDir())
	if errors.Is(err, ErrNoImageTime) {
		t.Skip(err)
	}
	if err != nil || at.IsZero() {
		t.Errorf("%v, %v", at, err)
	}
}
