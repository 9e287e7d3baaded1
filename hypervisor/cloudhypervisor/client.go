package cloudhypervisor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/hypervisor/cloudhypervisor/internal/api"
)

const (
	// callTimeout bounds a call whose caller's deadline is later or missing.
	callTimeout = 10 * time.Second
	// bootTimeout is longer: devices are built and their sockets connected to.
	bootTimeout = 30 * time.Second
	// maxBody and maxHeader bound an answer. The largest genuine one, to
	// vm.info, is a few KiB.
	maxBody   = 1 << 20
	maxHeader = 16 << 10
	// maxMessage bounds what is quoted from an error.
	maxMessage = 4 << 10
)

// APIError is a call that Cloud Hypervisor refused.
type APIError struct {
	// Call is such as "vm.boot".
	Call string
	// Status is the HTTP status.
	Status int
	// Messages are the hypervisor's own words, the outermost first.
	Messages []string
}

// Error is part of error.
func (e *APIError) Error() string {
	text := fmt.Sprintf("%s: status %d", e.Call, e.Status)
	if len(e.Messages) > 0 {
		text += ": " + strings.Join(e.Messages, ": ")
	}
	return text
}

// client makes calls, one at a time, as the hypervisor answers them.
type client struct {
	calls *api.Client
	// turn holds a token while no call is made; a channel, because waiting for
	// a turn must end with the caller's context.
	turn chan struct{}
}

func newClient(socket string) *client {
	c := &client{turn: make(chan struct{}, 1)}
	c.turn <- struct{}{}
	c.calls = &api.Client{Server: "http://localhost/api/v1/", Client: transport{socket}}
	return c
}

// call makes one call within timeout. A success's body is decoded into answer
// unless that is nil.
func (c *client) call(ctx context.Context, name string, timeout time.Duration, answer any,
	do func(context.Context) (*http.Response, error),
) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	select {
	case <-c.turn:
	case <-ctx.Done():
		return fmt.Errorf("%s: wait for the call before it: %w", name, ctx.Err())
	}
	defer func() { c.turn <- struct{}{} }()
	resp, err := do(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s: read the answer: %w", name, errors.Join(ctx.Err(), err))
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusNoContent:
	default:
		return &APIError{Call: name, Status: resp.StatusCode, Messages: messages(body)}
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("%s: decode the answer: %w", name, err)
	}
	return nil
}

// messages decodes an error's body: an array of strings, or, from the HTTP
// server itself, other text.
func messages(body []byte) []string {
	var list []string
	if err := json.Unmarshal(body, &list); err != nil {
		list = []string{string(body)}
	}
	var out []string
	left := maxMessage
	for _, m := range list {
		m = strings.TrimSpace(strings.ToValidUTF8(m, "?"))
		if m == "" {
			continue
		}
		if len(m) > left {
			return append(out, strings.ToValidUTF8(m[:left], ""))
		}
		left -= len(m)
		out = append(out, m)
	}
	return out
}

func (c *client) ping(ctx context.Context) (p api.Ping, err error) {
	return p, c.call(ctx, "vmm.ping", callTimeout, &p, func(ctx context.Context) (*http.Response, error) {
		return c.calls.Ping(ctx)
	})
}

func (c *client) create(ctx context.Context, vm api.VM) error {
	return c.call(ctx, "vm.create", callTimeout, nil, func(ctx context.Context) (*http.Response, error) {
		return c.calls.Create(ctx, vm)
	})
}

func (c *client) boot(ctx context.Context) error {
	return c.call(ctx, "vm.boot", bootTimeout, nil, func(ctx context.Context) (*http.Response, error) {
		return c.calls.Boot(ctx)
	})
}

func (c *client) addNet(ctx context.Context, nic api.NIC, tap *os.File) error {
	return c.call(ctx, "vm.add-net", callTimeout, nil, func(ctx context.Context) (*http.Response, error) {
		return c.calls.AddNet(withFile(ctx, tap), nic)
	})
}

func (c *client) removeDevice(ctx context.Context, id string) error {
	return c.call(ctx, "vm.remove-device", callTimeout, nil, func(ctx context.Context) (*http.Response, error) {
		return c.calls.RemoveDevice(ctx, api.Removal{Id: id})
	})
}

func (c *client) resize(ctx context.Context, r api.Resize) error {
	return c.call(ctx, "vm.resize", callTimeout, nil, func(ctx context.Context) (*http.Response, error) {
		return c.calls.Resize(ctx, r)
	})
}

func (c *client) state(ctx context.Context) (string, error) {
	var i api.Info
	err := c.call(ctx, "vm.info", callTimeout, &i, func(ctx context.Context) (*http.Response, error) {
		return c.calls.Info(ctx)
	})
	return i.State, err
}

func (c *client) pause(ctx context.Context) error {
	return c.call(ctx, "vm.pause", callTimeout, nil, func(ctx context.Context) (*http.Response, error) {
		return c.calls.Pause(ctx)
	})
}

func (c *client) resume(ctx context.Context) error {
	return c.call(ctx, "vm.resume", callTimeout, nil, func(ctx context.Context) (*http.Response, error) {
		return c.calls.Resume(ctx)
	})
}

func (c *client) shutdown(ctx context.Context) error {
	return c.call(ctx, "vmm.shutdown", callTimeout, nil, func(ctx context.Context) (*http.Response, error) {
		return c.calls.Shutdown(ctx)
	})
}

// fileKey is the context key of a request's file.
type fileKey struct{}

// withFile has the transport send a file along with the request.
func withFile(ctx context.Context, f *os.File) context.Context {
	return context.WithValue(ctx, fileKey{}, f)
}

// transport sends requests to a Unix socket, each on a connection of its own:
// the hypervisor serves ten connections and was seen to hang on used ones.
type transport struct{ socket string }

// Do is part of api.HttpRequestDoer.
func (t transport) Do(req *http.Request) (_ *http.Response, err error) {
	ctx := req.Context()
	// The hypervisor does not decode chunks; Write sends Content-Length where
	// the length is known, and it is for every body the client makes.
	var request bytes.Buffer
	req.Close = true
	if err := req.Write(&request); err != nil {
		return nil, err
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", t.socket)
	if err != nil {
		return nil, err
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("connected to %s by %T", t.socket, c), c.Close())
	}
	// Unblocks reads and writes, those of the body too, when ctx ends.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if err != nil {
			stop()
			_ = conn.Close()
			err = errors.Join(ctx.Err(), err)
		}
	}()
	file, _ := ctx.Value(fileKey{}).(*os.File)
	if err := send(conn, request.Bytes(), file); err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	// The header and the body are bounded together, and the body once more by
	// itself, so that too long a one is an error and not cut.
	r := io.LimitReader(conn, maxHeader+maxBody)
	resp, err := http.ReadResponse(bufio.NewReader(r), req)
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if resp.ContentLength > maxBody {
		return nil, errors.New("read the answer: a body of " + strconv.FormatInt(resp.ContentLength, 10) + " bytes")
	}
	resp.Body = &answerBody{ReadCloser: resp.Body, conn: conn, stop: stop, left: maxBody}
	return resp, nil
}

// send writes a request, with the file on its first bytes.
func send(conn *net.UnixConn, request []byte, file *os.File) error {
	if file == nil {
		_, err := conn.Write(request)
		return err
	}
	// Not File.Fd, which would make the caller's tap blocking.
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	n := 0
	var sent error
	err = raw.Control(func(fd uintptr) {
		n, _, sent = conn.WriteMsgUnix(request, unix.UnixRights(int(fd)), nil)
	})
	if err := errors.Join(err, sent); err != nil {
		return err
	}
	if n < len(request) {
		_, err = conn.Write(request[n:])
	}
	return err
}

// answerBody is a bounded body that owns its connection.
type answerBody struct {
	io.ReadCloser
	conn *net.UnixConn
	stop func() bool
	left int
}

// Read is part of io.Reader.
func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, fmt.Errorf("a body of more than %d bytes", maxBody)
	}
	return n, err
}

// Close is part of io.Closer. Closing the connection ends the body as well;
// draining it first, as the body's own Close may, would wait for the hypervisor.
func (b *answerBody) Close() error {
	b.stop()
	return b.conn.Close()
}
