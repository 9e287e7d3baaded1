package cloudhypervisor

import (
	"bytes"
	"testing"
)

func FuzzReadEvents(f *testing.F) {
	f.Add([]byte("{\n \"timestamp\": {\"secs\": 0, \"nanos\": 1},\n \"source\": \"vm\",\n \"event\": \"booted\",\n \"properties\": null\n}\n\n"))
	f.Add([]byte(`{"source":"virtio-device","event":"activated","properties":{"id":"_disk0"}}`))
	f.Add([]byte(`{"source":1}`))
	f.Add([]byte("}"))
	f.Fuzz(func(t *testing.T, in []byte) {
		_ = readEvents(bytes.NewReader(in), func(e event) {
			if len(e.Source)+len(e.Event) > 3*len(in) {
				t.Errorf("an event larger than its input: %d bytes from %d", len(e.Source)+len(e.Event), len(in))
			}
		})
	})
}

func FuzzMessages(f *testing.F) {
	f.Add([]byte(`["Error from API","The VM could not boot"]`))
	f.Add([]byte("Too many open connections"))
	f.Add([]byte(`["\ud800"]`))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, in []byte) {
		size := 0
		for _, m := range messages(in) {
			size += len(m)
		}
		if size > maxMessage {
			t.Errorf("%d bytes of messages", size)
		}
	})
}
