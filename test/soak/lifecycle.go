package main

import (
	"errors"
	"fmt"

	"github.com/nanoclaw/nanoclaw/test/internal/remains"
)

// lifecycle creates a container, starts it, enters it, kills it and deletes it,
// and looks for what is left of it.
func (s *soak) lifecycle(e *entry) error {
	id, err := s.docker("create", "--runtime", "nanoclaw", "-v", "/volume", "busybox", "sleep", "1000")
	if err != nil {
		return err
	}
	err = errors.Join(s.live(e, id), s.removed(id))
	if left, lookErr := s.left(id); lookErr != nil || len(left) > 0 {
		e.Left = left
		err = errors.Join(err, lookErr)
	}
	return err
}

func (s *soak) live(e *entry, id string) error {
	if _, err := s.docker("start", id); err != nil {
		return err
	}
	word := fmt.Sprintf("lifecycle %d", e.N)
	if err := s.expect(word, "exec", id, "echo", word); err != nil {
		return err
	}
	if shim, err := find(partShim, id); err != nil {
		return err
	} else if e.RSS, e.Files, err = size(shim); err != nil {
		return err
	}
	if _, err := s.docker("kill", id); err != nil {
		return err
	}
	return s.expect("137", "wait", id)
}

func (s *soak) removed(id string) error {
	_, err := s.docker("rm", "-f", "-v", id)
	return err
}

// left is what there is of a container after the time that it may take.
func (s *soak) left(id string) ([]string, error) {
	return remains.Wait(func() ([]string, error) { return s.engine.Of(id) })
}
