package vmm

import (
	"context"
	"testing"
)

func TestAwait(t *testing.T) {
	ended := make(chan struct{})
	close(ended)
	Await(context.Background(), ended, func() { t.Error("killed what had ended") })

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	done := make(chan struct{})
	Await(ctx, done, func() { close(done) })
}
