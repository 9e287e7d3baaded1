package task

import (
	"errors"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/nanoclaw/nanoclaw/annotations"
)

// toStatus gives an error its status on the wire, once, at the edge.
func toStatus(err error) error {
	var refusal *annotations.Refusal
	if errors.As(err, &refusal) {
		// The refusal alone: what was being done when it came up is noise to
		// the person who reads it.
		return errgrpc.ToGRPC(withClass{refusal, errdefs.ErrPermissionDenied})
	}
	return errgrpc.ToGRPC(err)
}

// withClass is an error with another's class but its own text.
type withClass struct {
	error
	class error
}

// Unwrap makes errors.Is find both.
func (e withClass) Unwrap() []error { return []error{e.error, e.class} }
