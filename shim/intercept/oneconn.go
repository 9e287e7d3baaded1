package intercept

import (
	"net"
	"sync"
)

// oneConn is a listener that has one connection, and ends with it.
type oneConn struct {
	conn net.Conn
	give chan net.Conn
	over chan struct{}
	once sync.Once
}

func newOneConn(conn net.Conn) *oneConn {
	l := &oneConn{conn: conn, give: make(chan net.Conn, 1), over: make(chan struct{})}
	l.give <- &closing{Conn: conn, over: l.end}
	return l
}

func (l *oneConn) end() { l.once.Do(func() { close(l.over) }) }

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.give:
		return c, nil
	case <-l.over:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

func (l *oneConn) Close() error {
	l.end()
	return nil
}

// closing is a connection that tells of its end.
type closing struct {
	net.Conn
	over func()
}

func (c *closing) Close() error {
	err := c.Conn.Close()
	c.over()
	return err
}
