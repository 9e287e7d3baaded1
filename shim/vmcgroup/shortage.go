package vmcgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Shortage says of what the host had too little for the cgroup's processes since it
// was made, and what to do; empty: nothing is known of any. It explains an end, of
// which the process itself could say nothing, or not this.
func (c *Cgroup) Shortage() string {
	killed := "memory.events"
	if c.v2 == nil {
		killed = "memory.oom_control"
	}
	switch {
	case c.events("memory", c.path, killed, "oom_kill") > 0:
		return fmt.Sprintf("the host has not enough memory for the virtual machine and has killed it: the limit of its cgroup %s, of one above that, or of the machine is reached; give it less with --memory, or end other containers", c.path)
	case c.refusedForks() > c.unforked:
		return fmt.Sprintf("the host allows the virtual machine no more processes: the limit (pids.max) of its cgroup %s or of one above that is reached; raise that, or end other containers", c.path)
	}
	return ""
}

// refusedForks is how often the number of processes was at a limit, of the cgroup
// or of one above it. Which of them counts that is the kernel's matter: up to Linux
// 6.10, and with cgroup v1, the one that the process is in, and since then the one
// whose limit it is, with those above.
func (c *Cgroup) refusedForks() int {
	n := 0
	for path := c.path; path != "/" && path != "."; path = filepath.Dir(path) {
		n += c.events("pids", path, "pids.events", "max")
	}
	return n
}

// events returns a counter of the cgroup's, or of one above it. What cannot be read explains nothing.
func (c *Cgroup) events(controller, path, file, name string) int {
	if c.v2 != nil {
		controller = ""
	}
	data, err := os.ReadFile(filepath.Join(mountpoint, controller, path, file))
	if err != nil {
		return 0
	}
	return counter(string(data), name)
}

// counter returns a value from lines of a name and a number.
func counter(text, name string) int {
	for line := range strings.Lines(text) {
		if key, number, ok := strings.Cut(strings.TrimSpace(line), " "); ok && key == name {
			n, _ := strconv.Atoi(number)
			return n
		}
	}
	return 0
}
