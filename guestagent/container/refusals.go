package container

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Refusal is something that the container's gate did not let happen.
type Refusal struct {
	Decision *agent.Decision
	// Why and Instead are the rule's words for people.
	Why, Instead string
	// Line, unless it is empty, is to be told to whoever started the process.
	Line string
}

const (
	// refusalsName is the file, in our folder, where a container finds what it was
	// refused.
	refusalsName = "refusals"
	// maxRefusals bounds the file, which is memory of the VM's.
	maxRefusals = 64 << 10
)

// refusals is a container's own copy of what it was refused, a line of JSON for
// each, for programs that want to know more than an error's number. It is no
// record: that is the host's. With more than it has room for it begins anew, and
// the numbers tell of the gap.
type refusals struct {
	mu   sync.Mutex
	file *os.File
	size int
	last refusalLine
}

// refusalLine is a line of it.
type refusalLine struct {
	Seq      uint64    `json:"seq"`
	Time     time.Time `json:"time"`
	Kind     string    `json:"kind"`
	Decision string    `json:"decision"`
	Path     string    `json:"path,omitempty"`
	Argv     []string  `json:"argv,omitempty"`
	Host     string    `json:"host,omitempty"`
	Port     uint32    `json:"port,omitempty"`
	Protocol string    `json:"protocol,omitempty"`
	Rule     string    `json:"rule"`
	Origin   string    `json:"origin,omitempty"`
	Why      string    `json:"why,omitempty"`
	Instead  string    `json:"instead,omitempty"`
}

// shareRefusals makes the file in the bundle, and has the container see it where
// its /dev is in memory. It returns nil where it is not.
func shareRefusals(bundle string, spec *specs.Spec) (*refusals, error) {
	if !devInMemory(spec) {
		return nil, nil
	}
	name := filepath.Join(bundle, refusalsName)
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND|unix.O_NOFOLLOW, 0o444)
	if err != nil {
		return nil, fmt.Errorf("make the list of refusals: %w", err)
	}
	show(spec, name, refusalsName)
	return &refusals{file: f}, nil
}

// add writes down what the gate refused.
func (r *refusals) add(what Refusal) {
	d := what.Decision
	r.write(refusalLine{
		Time: time.Unix(0, d.GetTime()).UTC(), Kind: d.GetKind(), Decision: d.GetDecision(),
		Path: d.GetPath(), Argv: d.GetArgv(), Rule: d.GetRule(), Origin: d.GetOrigin(), Why: what.Why, Instead: what.Instead,
	})
}

// unreached writes down what the host did not let the container reach.
func (r *refusals) unreached(e *agent.Endpoint) {
	why := e.GetReason()
	r.write(refusalLine{
		Time: time.Unix(0, e.GetTime()).UTC(), Kind: "network", Decision: "deny",
		Host: e.GetHost(), Port: e.GetPort(), Protocol: e.GetProtocol(),
		Rule: why.GetRule(), Origin: why.GetOrigin(), Why: why.GetWhy(), Instead: why.GetInstead(),
	})
}

// write writes a line. Of the same refusal again and again there is one.
func (r *refusals) write(line refusalLine) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	line.Seq = r.last.Seq + 1
	if line.repeats(&r.last) {
		return
	}
	b, err := json.Marshal(&line)
	if err != nil {
		return
	}
	b = append(b, '\n')
	if r.size+len(b) > maxRefusals {
		if err := r.file.Truncate(0); err != nil {
			return
		}
		r.size = 0
	}
	// Where there is no memory for it, a copy is missing.
	n, _ := r.file.Write(b)
	r.size += n
	r.last = line
}

// repeats reports whether it says nothing that the one before did not.
func (l *refusalLine) repeats(before *refusalLine) bool {
	return l.Kind == before.Kind && l.Decision == before.Decision && l.Path == before.Path && l.Rule == before.Rule &&
		l.Host == before.Host && l.Port == before.Port && l.Protocol == before.Protocol &&
		len(l.Argv) == 0 && len(before.Argv) == 0
}

func (r *refusals) close() {
	if r != nil {
		_ = r.file.Close()
	}
}
