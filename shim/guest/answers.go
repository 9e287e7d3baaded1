package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync/atomic"

	"google.golang.org/protobuf/encoding/protowire"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
)

const (
	// answerHeader is the length of what precedes a message of ttrpc: four bytes
	// of length, four that name the call, and two more.
	answerHeader = 10
	// maxAnswer is over the largest answer that an agent gives, which is one of as many
	// processes as are listed at most, in bytes. ttrpc would take 4 MiB.
	maxAnswer = 2 << 20
	// maxFields is over the fields of any answer, each process or decision being one.
	maxFields = 2 * agent.MaxProcesses
)

// errTooMuch ends a connection whose guest says what it was not asked for.
var errTooMuch = errors.New("the guest agent broke the protocol")

// answers is the agent's connection, which ends when there are more answers than
// calls, or one is too long. The client would log each of them, or read it to its
// end: a guest could fill the host's log and keep a CPU of it busy.
type answers struct {
	net.Conn
	asked atomic.Int64

	// What follows belongs to the one goroutine that reads.
	came   int64
	header []byte
	left   uint32
}

// expect says that one more answer may come.
func (a *answers) expect() { a.asked.Add(1) }

// Read implements net.Conn.
func (a *answers) Read(p []byte) (int, error) {
	n, err := a.Conn.Read(p)
	if bad := a.follow(p[:n]); bad != nil {
		return 0, bad
	}
	return n, err
}

// follow follows the messages' bounds through what was read.
func (a *answers) follow(p []byte) error {
	for len(p) > 0 {
		if a.left > 0 {
			n := min(len(p), int(a.left))
			a.left -= uint32(n)
			p = p[n:]
			continue
		}
		n := min(len(p), answerHeader-len(a.header))
		a.header = append(a.header, p[:n]...)
		p = p[n:]
		if len(a.header) < answerHeader {
			continue
		}
		a.left = binary.BigEndian.Uint32(a.header)
		a.header = a.header[:0]
		a.came++
		if asked := a.asked.Load(); a.came > asked {
			return fmt.Errorf("%w: %d answers to %d calls", errTooMuch, a.came, asked)
		}
		if a.left > maxAnswer {
			return fmt.Errorf("%w: an answer of %d bytes is over %d", errTooMuch, a.left, maxAnswer)
		}
	}
	return nil
}

// fewFields refuses an answer of more fields than any has. One takes two bytes
// to say, and a hundred times that when it has been read.
func fewFields(answer []byte) error {
	for n := 0; len(answer) > 0; n++ {
		if n == maxFields {
			return fmt.Errorf("%w: an answer has more than %d fields", errTooMuch, maxFields)
		}
		_, _, size := protowire.ConsumeField(answer)
		if size < 0 {
			return fmt.Errorf("%w: an answer is none: %w", errTooMuch, protowire.ParseError(size))
		}
		answer = answer[size:]
	}
	return nil
}
