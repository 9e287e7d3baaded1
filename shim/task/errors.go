package task

import (
	"errors"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nanoclaw/nanoclaw/annotations"
	"github.com/nanoclaw/nanoclaw/shim/guest"
	"github.com/nanoclaw/nanoclaw/shim/wording"
)

// toStatus gives an error its status on the wire, once, at the edge. Only the
// runtime's own words about the container's program go on unchanged: what is
// said of anything else must not choose the exit code of docker run.
func toStatus(err error) error {
	if said := new(guest.RuntimeError); errors.As(err, &said) {
		return errors.New(err.Error())
	}
	if refusal := new(annotations.Refusal); errors.As(err, &refusal) {
		// The refusal alone: what was being done when it came up is noise to
		// the person who reads it.
		return errors.New(wording.Plain(refusal.Error()))
	}
	s, _ := status.FromError(errgrpc.ToGRPC(err))
	code := s.Code()
	if code == codes.PermissionDenied {
		// The class alone would put its own words into the message.
		code = codes.Unknown
	}
	return status.Error(code, wording.Plain(s.Message()))
}
