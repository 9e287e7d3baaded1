package task

import (
	"errors"

	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/nanoclaw/nanoclaw/annotations"
)

// toStatus gives an error its status on the wire, once, at the edge.
func toStatus(err error) error {
	var refusal *annotations.Refusal
	if errors.As(err, &refusal) {
		// The refusal alone: what was being done when it came up is noise to
		// the person who reads it. It has no class, because Docker would take
		// the words "permission denied" for a program that cannot be run (126).
		return errors.New(refusal.Error())
	}
	return errgrpc.ToGRPC(err)
}
