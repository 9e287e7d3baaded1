// Package processes tells of processes in the VM what ps would, read from /proc.
//
// Names and arguments are the processes' own to choose, and any of them may end
// at any time: what is read is bounded, and one that is gone is left out.
package processes

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
)

// ticks is how often a second the kernel's clock for CPU time ticks, for
// programs: USER_HZ, which is a constant of the architecture's.
const ticks = 100

// maxFile bounds what is read of stat and status, which have under 2 KiB.
const maxFile = 8 << 10

// List describes the processes of those PIDs. execs are the ids of those that
// were started by themselves.
func List(pids []int, execs map[int]string) (list []*agent.Process, more int) {
	seen := make(map[int]seenAs, len(pids))
	for _, pid := range pids {
		if p, ok := look("/proc", pid); ok {
			seen[pid] = p
		}
	}
	list = make([]*agent.Process, 0, len(seen))
	for pid, p := range seen {
		list = append(list, &agent.Process{
			// One that is not among them has no PID here that means anything.
			Pid: p.pid, Ppid: seen[p.parent].pid, Exec: execs[pid],
			Uid: p.uid, CpuMs: p.ticks * 1000 / ticks, Command: p.command,
		})
	}
	slices.SortFunc(list, func(a, b *agent.Process) int { return cmp.Compare(a.GetPid(), b.GetPid()) })
	if len(list) > agent.MaxProcesses {
		list, more = list[:agent.MaxProcesses], len(list)-agent.MaxProcesses
	}
	return list, more
}

// seenAs is a process as it is seen from within its container, but for its
// parent.
type seenAs struct {
	pid, uid uint32
	parent   int
	ticks    uint64
	command  string
}

func look(proc string, pid int) (p seenAs, ok bool) {
	read := func(name string, most int64) []byte {
		f, err := os.Open(fmt.Sprintf("%s/%d/%s", proc, pid, name))
		if err != nil {
			return nil
		}
		defer func() { _ = f.Close() }()               // it was read from only
		data, _ := io.ReadAll(io.LimitReader(f, most)) // what a process that ended has
		return data
	}
	name, parent, used, ok := parseStat(read("stat", maxFile))
	if !ok {
		return p, false
	}
	p.parent, p.ticks = parent, used
	if p.pid, p.uid, ok = parseStatus(read("status", maxFile)); !ok {
		return p, false
	}
	p.command = command(read("cmdline", agent.MaxCommand), name)
	return p, true
}

// parseStat reads /proc/PID/stat. The name is in parentheses and may contain any
// byte, parentheses too.
func parseStat(data []byte) (name string, parent int, used uint64, ok bool) {
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if open < 0 || end < open {
		return "", 0, 0, false
	}
	// From the third field on: state, parent, …; 14 and 15 are the times.
	fields := strings.Fields(string(data[end+1:]))
	if len(fields) < 13 {
		return "", 0, 0, false
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return "", 0, 0, false
	}
	for _, field := range fields[11:13] {
		n, err := strconv.ParseUint(field, 10, 48)
		if err != nil {
			return "", 0, 0, false
		}
		used += n
	}
	return string(data[open+1 : end]), parent, used, true
}

// parseStatus reads the PID in the innermost namespace, and the effective user,
// from /proc/PID/status. The name comes first there, and is escaped.
func parseStatus(data []byte) (pid, uid uint32, ok bool) {
	found := 0
	for line := range strings.Lines(string(data)) {
		key, rest, _ := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		var field string
		var to *uint32
		switch {
		case key == "NSpid" && len(fields) > 0:
			field, to = fields[len(fields)-1], &pid
		case key == "Uid" && len(fields) == 4:
			field, to = fields[1], &uid
		default:
			continue
		}
		n, err := strconv.ParseUint(field, 10, 32)
		if err != nil {
			return 0, 0, false
		}
		*to = uint32(n)
		found++
	}
	return pid, uid, found == 2
}

// command is what ps shows of a command line.
func command(line []byte, name string) string {
	text := string(bytes.ReplaceAll(bytes.TrimRight(line, "\x00"), []byte{0}, []byte{' '}))
	if text == "" {
		text = "[" + name + "]"
	}
	return strings.ToValidUTF8(text, "?")
}
