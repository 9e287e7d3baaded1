package cloudhypervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxEvent bounds one event of the event monitor.
const maxEvent = 64 << 10

// event is what the hypervisor reports on its event monitor.
type event struct {
	Source     string            `json:"source"`
	Event      string            `json:"event"`
	Properties map[string]string `json:"properties"`
}

// readEvents calls on for each event until r ends, and returns why it ended:
// nil for its end, also in the midst of an event, as a killed VMM leaves it.
func readEvents(r io.Reader, on func(event)) error {
	bounded := &budget{r: r}
	d := json.NewDecoder(bounded)
	for {
		bounded.left = maxEvent
		var e event
		err := d.Decode(&e)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return fmt.Errorf("read the event monitor: %w", err)
		}
		on(e)
	}
}

// budget is a reader that fails once left bytes were read.
type budget struct {
	r    io.Reader
	left int
}

// Read is part of io.Reader.
func (b *budget) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("an event of more than %d bytes", maxEvent)
	}
	if len(p) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	b.left -= n
	return n, err
}
