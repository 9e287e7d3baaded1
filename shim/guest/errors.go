package guest

import (
	"errors"
	"strings"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxErrorText bounds what the guest says of an error, in bytes.
const maxErrorText = 4 << 10

// native is an error of the guest as one of ours: its class and its text, and
// nothing else of what it may hold. One without a class keeps its text alone:
// the wire's wrapping would be printed to a person.
func native(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	text := s.Message()
	text = Printable(text[:min(len(text), maxErrorText)])
	if s.Code() == codes.Unknown {
		return errors.New(text)
	}
	return errgrpc.ToNative(status.Error(s.Code(), text))
}

// Printable is the part of a text of the guest's that does nothing to the
// terminal it is printed on.
func Printable(text string) string {
	const delete, lastC1 = 0x7f, 0x9f
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || r >= ' ' && (r < delete || r > lastC1) && r != '\uFFFD' {
			return r
		}
		return -1
	}, text))
}
