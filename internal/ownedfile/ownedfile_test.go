package ownedfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRead(t *testing.T) {
	dir := t.TempDir()
	usual, private := Kind{Name: "the list", Max: 8}, Kind{Name: "the secret", Max: 8, Private: true}
	for name, c := range map[string]struct {
		kind    Kind
		mode    os.FileMode
		content string
		why     string
	}{
		"usual":          {usual, 0o644, "content\n", ""},
		"group writes":   {usual, 0o664, "content", "can be written by others"},
		"world writes":   {usual, 0o602, "content", "can be written by others"},
		"too long":       {usual, 0o600, "content+\n", "is over 8 bytes"},
		"private":        {private, 0o640, "content", ""},
		"private, read":  {private, 0o644, "content", "can be read by everybody"},
		"private, other": {private, 0o601, "content", "can be read by everybody"},
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(c.content), 0o600), os.Chmod(path, c.mode)); err != nil {
			t.Fatal(err)
		}
		got, err := Read(c.kind, path)
		switch {
		case c.why == "" && (err != nil || string(got) != c.content):
			t.Errorf("%s: %q, %v", name, got, err)
		case c.why != "" && (err == nil || !strings.Contains(err.Error(), c.why) || !strings.Contains(err.Error(), path)):
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := Read(usual, filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := Read(usual, dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Error(err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(usual, pipe); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Error(err)
	}
	if os.Geteuid() == 0 {
		path := filepath.Join(dir, "usual")
		if err := os.Chown(path, 4711, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(usual, path); err == nil || !strings.Contains(err.Error(), "belongs to user 4711") {
			t.Error(err)
		}
	}
}
