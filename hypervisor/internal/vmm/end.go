package vmm

import "context"

// Await waits for done, and kills what it belongs to once ctx has ended.
func Await(ctx context.Context, done <-chan struct{}, kill func()) {
	select {
	case <-done:
	case <-ctx.Done():
		kill()
		<-done
	}
}
