package task

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/shim/guest"
)

// What Docker makes 126 or 127 of must be about the container's program.
func TestOnlyTheRuntimesWordsChooseAnExitCode(t *testing.T) {
	_, missing := os.Open("/no/such/vmlinux")
	phrases := []string{"executable file not found", "no such file or directory", "permission denied", "is a directory", "not a directory"}
	for name, c := range map[string]struct {
		err  error
		want string // what a person must still read
		code codes.Code
	}{
		"a missing kernel":   {fmt.Errorf("start the virtual machine: %w", missing), "/no/such/vmlinux", codes.Unknown},
		"a class of its own": {fmt.Errorf("x: %w", errdefs.ErrPermissionDenied), "x", codes.Unknown},
		"no right":           {&os.PathError{Op: "open", Path: "/dev/kvm", Err: syscall.EACCES}, "/dev/kvm", codes.Unknown},
		"a refusal":          {&annotations.Refusal{What: "/x", Why: "it is a directory"}, "/x", codes.Unknown},
		"a guest's console":  {errors.New("it did not boot; its console:\ninit: No such file or directory"), "its console", codes.Unknown},
		"the agent's own":    {errors.New("mount /proc: no such file or directory"), "mount /proc", codes.Unknown},
		"not found":          {fmt.Errorf("container x: %w", errdefs.ErrNotFound), "container x: not found", codes.NotFound},
	} {
		s, ok := status.FromError(toStatus(c.err))
		if got := s.Code(); got != c.code || !ok && c.code != codes.Unknown {
			t.Errorf("%s: code %v, want %v", name, got, c.code)
		}
		for _, phrase := range phrases {
			if strings.Contains(strings.ToLower(s.Message()), phrase) {
				t.Errorf("%s: Docker finds %q in %q", name, phrase, s.Message())
			}
		}
		if !strings.Contains(s.Message(), c.want) {
			t.Errorf("%s: %q does not say %q", name, s.Message(), c.want)
		}
	}
	const text = `exec: "x": executable file not found in $PATH`
	if got := toStatus(fmt.Errorf("start: %w", &guest.RuntimeError{Text: text})); got.Error() != "start: "+text {
		t.Errorf("the runtime's words became %q", got)
	}
}
