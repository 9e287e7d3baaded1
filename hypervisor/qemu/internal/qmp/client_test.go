package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 2, "minor": 1, "major": 11}}, "capabilities": ["oob"]}}` + "\r\n"

// pair returns both ends of a Unix socket.
func pair(t *testing.T) (ours, theirs *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]*net.UnixConn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "qmp")
		conn, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		conns[i] = conn.(*net.UnixConn)
		t.Cleanup(func() { _ = conn.Close() })
	}
	return conns[0], conns[1]
}

// request is what a server of the tests reads.
type request struct {
	Execute   string          `json:"execute"`
	Arguments json.RawMessage `json:"arguments"`
	ID        uint64          `json:"id"`
}

// serve greets, and answers each command with what answer returns.
func serve(t *testing.T, conn *net.UnixConn, answer func(request) string) {
	t.Helper()
	go func() {
		if _, err := io.WriteString(conn, greeting); err != nil {
			return
		}
		lines := bufio.NewScanner(conn)
		for lines.Scan() {
			var r request
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
				return
			}
			out := fmt.Sprintf(`{"return": {}, "id": %d}`, r.ID)
			if r.Execute != "qmp_capabilities" {
				out = answer(r)
			}
			if _, err := io.WriteString(conn, out+"\r\n"); err != nil {
				return
			}
		}
	}()
}

func connect(t *testing.T, conn *net.UnixConn, onEvent func(Event)) *Client {
	t.Helper()
	c, err := Connect(context.Background(), conn, onEvent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func ignore(Event) {}

func TestExecuteSendsArguments(t *testing.T) {
	ours, theirs := pair(t)
	got := make(chan request, 1)
	serve(t, theirs, func(r request) string {
		got <- r
		return fmt.Sprintf(`{"return": {}, "id": %d}`, r.ID)
	})
	c := connect(t, ours, ignore)
	if err := c.Execute(context.Background(), "device_del", map[string]string{"id": "nic0"}); err != nil {
		t.Fatal(err)
	}
	r := <-got
	if r.Execute != "device_del" || string(r.Arguments) != `{"id":"nic0"}` {
		t.Fatalf("the server got %+v", r)
	}
}

func TestExecuteReportsARefusal(t *testing.T) {
	ours, theirs := pair(t)
	serve(t, theirs, func(r request) string {
		return fmt.Sprintf(`{"id": %d, "error": {"class": "DeviceNotFound", "desc": "no nic0"}}`, r.ID)
	})
	err := connect(t, ours, ignore).Execute(context.Background(), "device_del", nil)
	var refused *Error
	if !errors.As(err, &refused) || refused.Class != ClassDeviceNotFound || !strings.Contains(err.Error(), "no nic0") {
		t.Fatalf("got %v", err)
	}
}

func TestEventsComeBeforeTheEnd(t *testing.T) {
	ours, theirs := pair(t)
	serve(t, theirs, func(request) string { return "" })
	var got []string
	c := connect(t, ours, func(e Event) { got = append(got, e.Name+string(e.Data)) })
	if _, err := io.WriteString(theirs, `{"event":"SHUTDOWN","data":{"guest":true},"timestamp":{"seconds":1}}`+"\n"); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	<-c.Done()
	if len(got) != 1 || got[0] != `SHUTDOWN{"guest":true}` {
		t.Fatalf("got %q", got)
	}
	if err := c.Execute(context.Background(), "quit", nil); !errors.Is(err, ErrClosed) {
		t.Fatalf("after the end: %v, want ErrClosed", err)
	}
}

func TestALateAnswerIsDropped(t *testing.T) {
	ours, theirs := pair(t)
	var late uint64
	serve(t, theirs, func(r request) string {
		if r.Execute == "slow" {
			late = r.ID
			return `{"event":"SLOW"}`
		}
		return fmt.Sprintf(`{"return": {}, "id": %d}`+"\n"+`{"error":{"class":"GenericError","desc":"x"},"id":%d}`, late, r.ID)
	})
	c := connect(t, ours, ignore)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := c.Execute(ctx, "slow", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want DeadlineExceeded", err)
	}
	var refused *Error
	if err := c.Execute(context.Background(), "quick", nil); !errors.As(err, &refused) {
		t.Fatalf("the second call got the first one's answer: %v", err)
	}
}

func TestAWedgedQEMUDoesNotHoldTheCaller(t *testing.T) {
	ours, theirs := pair(t)
	go func() { _, _ = io.WriteString(theirs, greeting) }()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Connect(ctx, ours, ignore); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want DeadlineExceeded", err)
	}
}

func TestAFullSocketDoesNotHoldTheCaller(t *testing.T) {
	ours, theirs := pair(t)
	answered := make(chan struct{})
	go func() {
		_, _ = io.WriteString(theirs, greeting)
		line, _ := bufio.NewReader(theirs).ReadBytes('\n')
		var r request
		_ = json.Unmarshal(line, &r)
		_, _ = fmt.Fprintf(theirs, `{"return":{},"id":%d}`+"\n", r.ID)
		close(answered)
	}()
	c := connect(t, ours, ignore)
	<-answered
	big := strings.Repeat("x", 2<<20)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := c.Execute(ctx, "x", big); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want DeadlineExceeded", err)
	}
	if err := c.Execute(context.Background(), "y", nil); err == nil {
		t.Fatal("the connection was used after half a line")
	}
}

func TestFilesRideOnTheCommand(t *testing.T) {
	ours, theirs := pair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	received := make(chan int, 1)
	go func() {
		_, _ = io.WriteString(theirs, greeting)
		for id := 1; id <= 2; id++ {
			buf, oob := make([]byte, 512), make([]byte, 512)
			_, n, _, _, err := theirs.ReadMsgUnix(buf, oob)
			if err != nil {
				return
			}
			if msgs, _ := unix.ParseSocketControlMessage(oob[:n]); len(msgs) == 1 {
				if fds, _ := unix.ParseUnixRights(&msgs[0]); len(fds) == 1 {
					received <- fds[0]
				}
			}
			_, _ = fmt.Fprintf(theirs, `{"return":{},"id":%d}`+"\n", id)
		}
	}()
	c := connect(t, ours, ignore)
	if err := c.Execute(context.Background(), "getfd", map[string]string{"fdname": "tap"}, w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal("the caller's file was closed: ", err)
	}
	passed := os.NewFile(uintptr(<-received), "passed")
	if _, err := io.WriteString(passed, "hello"); err != nil {
		t.Fatal(err)
	}
	_ = passed.Close()
	if got, _ := io.ReadAll(r); string(got) != "hello" {
		t.Fatalf("read %q through the passed file", got)
	}
}

func TestNotQMPEndsTheConnection(t *testing.T) {
	for name, line := range map[string]string{
		"no JSON":       "hello",
		"no kind":       `{"a":1}`,
		"two kinds":     `{"event":"A","return":{}}`,
		"second hello":  `{"QMP":{}}`,
		"endless":       strings.Repeat("x", maxLine+1),
		"wrong id type": `{"return":{},"id":"x"}`,
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := pair(t)
			serve(t, theirs, func(request) string { return "" })
			c := connect(t, ours, ignore)
			go func() { _, _ = io.WriteString(theirs, line+"\n") }()
			select {
			case <-c.Done():
			case <-time.After(5 * time.Second):
				t.Fatal("the connection lives on")
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(greeting))
	f.Add([]byte(`{"return": {}, "id": 1}`))
	f.Add([]byte(`{"error": {"class": "GenericError", "desc": "no"}, "id": 2}`))
	f.Add([]byte(`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}`))
	f.Add([]byte(`{"return": null}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := parse(line)
		if err == nil && m.Greeting == nil && m.Event == "" && m.Return == nil && m.Error == nil {
			t.Fatalf("accepted %q, which is nothing", line)
		}
	})
}
