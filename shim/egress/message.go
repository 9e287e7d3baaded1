package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// maxAnswer is the largest answer by UDP: it fits one frame.
	maxAnswer = 1232
	// plainAnswer is the largest for those who do not say that they take more.
	plainAnswer = 512
	// maxAddresses bounds the addresses that are taken of an answer.
	maxAddresses = 16
	// minTTL and maxTTL bound how long an answer is remembered.
	minTTL = time.Second
	maxTTL = time.Minute
)

var errNoQuestion = errors.New("it is not a DNS question")

// question is what was understood of a guest's.
type question struct {
	id      uint16
	recurse bool
	// name is in lower case, without the dot at its end.
	name string
	q    dnsmessage.Question
	// edns: the asker knows of EDNS, and takes answers of size bytes by UDP.
	edns bool
	size int
	// refused is what to answer at once, where that is not success.
	refused dnsmessage.RCode
}

// parseQuestion reads a guest's question. An error is that there is nobody to
// answer.
func parseQuestion(m []byte) (question, error) {
	var p dnsmessage.Parser
	h, err := p.Start(m)
	if err != nil || h.Response {
		return question{}, errNoQuestion
	}
	q := question{id: h.ID, recurse: h.RecursionDesired, size: plainAnswer}
	if h.OpCode != 0 {
		q.refused = dnsmessage.RCodeNotImplemented
		return q, nil
	}
	if q.q, err = p.Question(); err != nil {
		q.refused = dnsmessage.RCodeFormatError
		return q, nil
	}
	if _, err := p.Question(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		q.refused = dnsmessage.RCodeFormatError
		return q, nil
	}
	if q.q.Class != dnsmessage.ClassINET {
		q.refused = dnsmessage.RCodeRefused
		return q, nil
	}
	q.name = strings.ToLower(strings.TrimSuffix(q.q.Name.String(), "."))
	q.readEDNS(&p)
	return q, nil
}

// readEDNS reads what the asker can take. What cannot be read is not there.
func (q *question) readEDNS(p *dnsmessage.Parser) {
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return
	}
	for {
		h, err := p.AdditionalHeader()
		if err != nil {
			return
		}
		if h.Type == dnsmessage.TypeOPT {
			q.edns = true
			q.size = max(plainAnswer, min(maxAnswer, int(h.Class)))
			return
		}
		if p.SkipAdditional() != nil {
			return
		}
	}
}

// reply is an answer to q without any record, or with those that add adds.
func (q question) reply(code dnsmessage.RCode, add func(*dnsmessage.Builder) error) ([]byte, error) {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{
		ID: q.id, Response: true, RecursionDesired: q.recurse, RecursionAvailable: true, RCode: code,
	})
	b.EnableCompression()
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if q.q.Name.Length > 0 {
		if err := b.Question(q.q); err != nil {
			return nil, err
		}
	}
	if add != nil {
		if err := b.StartAnswers(); err != nil {
			return nil, err
		}
		if err := add(&b); err != nil {
			return nil, err
		}
	}
	return b.Finish()
}

// withAddress is the answer that the name has one address.
func (q question) withAddress(a netip.Addr, ttl uint32) ([]byte, error) {
	return q.reply(dnsmessage.RCodeSuccess, func(b *dnsmessage.Builder) error {
		return b.AResource(dnsmessage.ResourceHeader{Name: q.q.Name, Class: dnsmessage.ClassINET, TTL: ttl}, dnsmessage.AResource{A: a.As4()})
	})
}

// withName is the answer that an address has one name.
func (q question) withName(name string, ttl uint32) ([]byte, error) {
	n, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return nil, err
	}
	return q.reply(dnsmessage.RCodeSuccess, func(b *dnsmessage.Builder) error {
		return b.PTRResource(dnsmessage.ResourceHeader{Name: q.q.Name, Class: dnsmessage.ClassINET, TTL: ttl}, dnsmessage.PTRResource{PTR: n})
	})
}

// anew is the question as it is asked of a resolver: made of what was understood
// and of nothing else.
func anew(id uint16, q dnsmessage.Question, edns bool) ([]byte, error) {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: id, RecursionDesired: true})
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if err := b.Question(q); err != nil {
		return nil, err
	}
	if edns {
		if err := b.StartAdditionals(); err != nil {
			return nil, err
		}
		var h dnsmessage.ResourceHeader
		if err := h.SetEDNS0(maxAnswer, dnsmessage.RCodeSuccess, false); err != nil {
			return nil, err
		}
		if err := b.OPTResource(h, dnsmessage.OPTResource{}); err != nil {
			return nil, err
		}
	}
	return b.Finish()
}

// addresses is what a resolver said of a name.
type addresses struct {
	code  dnsmessage.RCode
	addrs []netip.Addr
	ttl   time.Duration
	// truncated: there is more, by TCP.
	truncated bool
}

// parseAddresses reads a resolver's answer to a question for addresses.
func parseAddresses(m []byte, id uint16, asked dnsmessage.Question) (addresses, error) {
	var p dnsmessage.Parser
	h, err := p.Start(m)
	if err != nil || !h.Response || h.ID != id {
		return addresses{}, errors.New("the resolver's answer is none")
	}
	q, err := p.Question()
	if err != nil || q.Type != asked.Type || q.Class != asked.Class || !strings.EqualFold(q.Name.String(), asked.Name.String()) {
		return addresses{}, errors.New("the resolver's answer is to another question")
	}
	if err := p.SkipAllQuestions(); err != nil {
		return addresses{}, fmt.Errorf("read the resolver's answer: %w", err)
	}
	all := addresses{code: h.RCode, ttl: maxTTL, truncated: h.Truncated}
	for len(all.addrs) < maxAddresses {
		r, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err != nil {
			return addresses{}, fmt.Errorf("read the resolver's answer: %w", err)
		}
		if r.Type != dnsmessage.TypeA || r.Class != dnsmessage.ClassINET {
			if err := p.SkipAnswer(); err != nil {
				return addresses{}, fmt.Errorf("read the resolver's answer: %w", err)
			}
			continue
		}
		a, err := p.AResource()
		if err != nil {
			return addresses{}, fmt.Errorf("read the resolver's answer: %w", err)
		}
		all.addrs = append(all.addrs, netip.AddrFrom4(a.A))
		all.ttl = min(all.ttl, time.Duration(r.TTL)*time.Second)
	}
	all.ttl = max(all.ttl, minTTL)
	return all, nil
}

// poolName returns the address that a reverse name such as 1.0.18.198.in-addr.arpa
// is of, where it is one of the pool's.
func poolName(name string) (netip.Addr, bool) {
	digits, ok := strings.CutSuffix(name, ".in-addr.arpa")
	if !ok {
		return netip.Addr{}, false
	}
	parts := strings.Split(digits, ".")
	if len(parts) != 4 {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
	return a, err == nil && Pool.Contains(a)
}
