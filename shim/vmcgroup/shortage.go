package vmcgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3"
)

// Shortage says of what the host had too little for the cgroup's processes since it
// was made, and what to do; empty: nothing is known of any. It explains an end, of
// which the process itself could say nothing, or not this.
func (c *Cgroup) Shortage() string {
	events := func(controller, v1, v2, name string) bool {
		file := filepath.Join(mountpoint, c.path, v2)
		if cgroups.Mode() != cgroups.Unified {
			file = filepath.Join(mountpoint, controller, c.path, v1)
		}
		// What cannot be read explains nothing.
		data, err := os.ReadFile(file)
		return err == nil && counter(string(data), name) > 0
	}
	switch {
	case events("memory", "memory.oom_control", "memory.events", "oom_kill"):
		return fmt.Sprintf("the host has not enough memory for the virtual machine and has killed it: the limit of its cgroup %s, of one above that, or of the machine is reached; give it less with --memory, or end other containers", c.path)
	case events("pids", "pids.events", "pids.events", "max"):
		return fmt.Sprintf("the host allows the virtual machine no more processes: the limit (pids.max) of its cgroup %s or of one above that is reached; raise that, or end other containers", c.path)
	}
	return ""
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
