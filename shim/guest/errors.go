package guest

import (
	"errors"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/internal/printable"
)

// maxErrorText bounds what the guest says of an error, in bytes.
const maxErrorText = 4 << 10

// RuntimeError is what the container runtime in the guest says of a program or a
// container that it could not start.
type RuntimeError struct{ Text string }

// Error is part of error.
func (e *RuntimeError) Error() string { return e.Text }

// Said is an error that the guest itself reported, as opposed to one of reaching
// it.
type Said struct{ err error }

// Error implements error.
func (e *Said) Error() string { return e.err.Error() }

// Unwrap returns the error with its class.
func (e *Said) Unwrap() error { return e.err }

// native is an error of the guest as one of ours: its class and its text, and
// nothing else of what it may hold. One without a class keeps its text alone:
// the wire's wrapping would be printed to a person.
func native(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	text := s.Message()
	text = printable.Text(text[:min(len(text), maxErrorText)])
	switch s.Code() {
	case codes.Unknown:
		return &Said{errors.New(text)}
	case agent.RuntimeStatus:
		return &Said{&RuntimeError{text}}
	}
	return &Said{errgrpc.ToNative(status.Error(s.Code(), text))}
}
