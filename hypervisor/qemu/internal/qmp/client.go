// Package qmp is a client of QEMU's machine protocol over a connected Unix
// socket: commands, some with file descriptors, and events.
//
// It knows no command but qmp_capabilities. It does not trust QEMU, which a
// guest may have taken over: lines are bounded, and an answer that is not QMP
// ends the connection.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrClosed is wrapped by the errors of calls on a connection that has ended.
var ErrClosed = errors.New("qmp connection is closed")

// Client is a connection to one QEMU. Its methods are safe for concurrent use.
type Client struct {
	conn    *net.UnixConn
	onEvent func(Event)
	greeted chan struct{}
	done    chan struct{}

	// writing holds a token while nobody writes; a channel, because waiting for
	// a turn must end with the caller's context.
	writing chan struct{}

	mu      sync.Mutex
	lastID  uint64
	waiting map[uint64]chan message
	err     error // why the connection ended; set before done is closed
}

// Connect takes conn over, waits for QEMU's greeting and leaves the negotiation
// mode. onEvent is called for each event, in order and from one goroutine; it
// must not block and must not call Execute.
func Connect(ctx context.Context, conn *net.UnixConn, onEvent func(Event)) (*Client, error) {
	c := &Client{
		conn:    conn,
		onEvent: onEvent,
		greeted: make(chan struct{}),
		done:    make(chan struct{}),
		writing: make(chan struct{}, 1),
		waiting: make(map[uint64]chan message),
	}
	c.writing <- struct{}{}
	go c.read()
	err := c.negotiate(ctx)
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Client) negotiate(ctx context.Context) error {
	select {
	case <-c.greeted:
	case <-c.done:
		return fmt.Errorf("wait for qemu's greeting: %w", c.err)
	case <-ctx.Done():
		return fmt.Errorf("wait for qemu's greeting: %w", ctx.Err())
	}
	return c.Execute(ctx, "qmp_capabilities", nil)
}

// Close ends the connection and waits for the last event to be handled.
func (c *Client) Close() {
	c.end(ErrClosed)
	<-c.done
}

// Done is closed when the connection has ended and the last event was handled.
func (c *Client) Done() <-chan struct{} { return c.done }

// Execute runs a command and waits for its answer. args is marshalled as JSON;
// nil sends none. The files ride on the command and stay the caller's.
func (c *Client) Execute(ctx context.Context, command string, args any, files ...*os.File) error {
	_, err := c.ask(ctx, command, args, files)
	return err
}

// Query runs a command without arguments and decodes its answer into v.
func (c *Client) Query(ctx context.Context, command string, v any) error {
	answer, err := c.ask(ctx, command, nil, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, v); err != nil {
		return fmt.Errorf("decode qemu's answer to %s: %w", command, err)
	}
	return nil
}

func (c *Client) ask(ctx context.Context, command string, args any, files []*os.File) (json.RawMessage, error) {
	answer := make(chan message, 1)
	id, err := c.register(answer)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	defer c.forget(id)
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, args, id})
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", command, err)
	}
	if err := c.write(ctx, append(line, '\n'), files); err != nil {
		return nil, fmt.Errorf("send %s to qemu: %w", command, err)
	}
	select {
	case m := <-answer:
		return result(command, m)
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for qemu to answer %s: %w", command, ctx.Err())
	case <-c.done:
	}
	// The answer may have come just before the end.
	select {
	case m := <-answer:
		return result(command, m)
	default:
		return nil, fmt.Errorf("wait for qemu to answer %s: %w", command, c.err)
	}
}

func result(command string, m message) (json.RawMessage, error) {
	if m.Error == nil {
		return m.Return, nil
	}
	return nil, &Error{Command: command, Class: m.Error.Class, Desc: m.Error.Desc}
}

func (c *Client) register(answer chan message) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	c.lastID++
	c.waiting[c.lastID] = answer
	return c.lastID, nil
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

// write sends one line and the files. A line that was sent in part leaves
// nothing that later lines could be told apart from, so that ends the connection.
func (c *Client) write(ctx context.Context, line []byte, files []*os.File) error {
	select {
	case <-c.writing:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return c.err
	}
	defer func() { c.writing <- struct{}{} }()

	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetWriteDeadline(time.Unix(1, 0)) })
	err := writeAll(c.conn, line, files)
	// When the deadline was set, or is just being set, it would hit the next line.
	if !stop() || err != nil {
		err = errors.Join(ctx.Err(), err)
		c.end(err)
	}
	return err
}

func writeAll(conn *net.UnixConn, line []byte, files []*os.File) error {
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	n, _, err := conn.WriteMsgUnix(line, rights, nil)
	if err == nil && n < len(line) {
		_, err = conn.Write(line[n:])
	}
	return err
}

// end closes the connection for the reason given, once.
func (c *Client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		_ = c.conn.Close()
	}
}

// read hands out what QEMU sends until the connection ends.
func (c *Client) read() {
	defer close(c.done)
	r := bufio.NewReaderSize(c.conn, maxLine)
	greeted := false
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			c.end(fmt.Errorf("%w: %w", ErrClosed, err))
			return
		}
		m, err := parse(line)
		if err != nil {
			c.end(fmt.Errorf("%w: %w", ErrClosed, err))
			return
		}
		switch {
		case m.Greeting != nil:
			if greeted {
				c.end(fmt.Errorf("%w: %w: a second greeting", ErrClosed, errNotQMP))
				return
			}
			greeted = true
			close(c.greeted)
		case m.Event != "":
			c.onEvent(Event{Name: m.Event, Data: m.Data})
		default:
			c.deliver(m)
		}
	}
}

// deliver hands an answer to the call that waits for it. Nobody waits for one
// that came after its call's deadline.
func (c *Client) deliver(m message) {
	if m.ID == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	answer := c.waiting[*m.ID]
	delete(c.waiting, *m.ID)
	if answer != nil {
		answer <- m
	}
}
