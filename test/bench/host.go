package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// process is one that a container needs on the host; memory in KiB.
type process struct {
	Name string `json:"name"`
	RSS  int64  `json:"rssKiB"`
	// PSS counts a page that several processes have only in part, so that sums
	// count it once.
	PSS int64 `json:"pssKiB"`
	// Own is the container's own, which runs on the host under runc only.
	Own bool `json:"containersOwn,omitempty"`
}

// proc is where processes are looked for.
type proc struct{ fs fs.FS }

// of returns the shim of a container and all that descends from it.
func (p proc) of(id string, own []string) ([]process, error) {
	dirs, err := fs.Glob(p.fs, "[0-9]*")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	commands := map[int][]string{}
	shim := 0
	for _, dir := range dirs {
		pid, err := strconv.Atoi(dir)
		if err != nil {
			continue
		}
		cmdline, err := fs.ReadFile(p.fs, dir+"/cmdline")
		if err != nil || len(cmdline) == 0 {
			continue // it has ended, or is the kernel's
		}
		stat, err := fs.ReadFile(p.fs, dir+"/stat")
		if err != nil {
			continue
		}
		words := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
		parent, err := parentOf(stat)
		if err != nil {
			return nil, fmt.Errorf("process %d: %w", pid, err)
		}
		commands[pid] = words
		children[parent] = append(children[parent], pid)
		if i := slices.Index(words, "-id"); strings.Contains(words[0], "containerd-shim") && i >= 0 && i+1 < len(words) && words[i+1] == id {
			shim = pid
		}
	}
	if shim == 0 {
		return nil, fmt.Errorf("no shim of container %s among the processes", id)
	}
	var list []process
	for pids := []int{shim}; len(pids) > 0; pids = pids[1:] {
		pid := pids[0]
		pids = append(pids, children[pid]...)
		memory, err := p.memory(pid)
		if err != nil {
			return nil, err
		}
		memory.Name = filepath.Base(commands[pid][0])
		memory.Own = slices.Equal(commands[pid], own)
		list = append(list, memory)
	}
	return list, nil
}

// parentOf reads the parent out of a stat file, whose second field is a name in
// brackets that may hold anything.
func parentOf(stat []byte) (int, error) {
	after := stat[bytes.LastIndexByte(stat, ')')+1:]
	fields := strings.Fields(string(after))
	if len(fields) < 2 {
		return 0, fmt.Errorf("unexpected stat %q", stat)
	}
	return strconv.Atoi(fields[1])
}

func (p proc) memory(pid int) (process, error) {
	rollup, err := fs.ReadFile(p.fs, fmt.Sprintf("%d/smaps_rollup", pid))
	if err != nil {
		return process{}, err
	}
	sizes := kibibytes(rollup)
	return process{RSS: sizes["Rss"], PSS: sizes["Pss"]}, nil
}

// kibibytes reads lines such as "MemTotal:  2040048 kB".
func kibibytes(data []byte) map[string]int64 {
	sizes := map[string]int64{}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) != 3 || words[2] != "kB" {
			continue
		}
		if n, err := strconv.ParseInt(words[1], 10, 64); err == nil {
			sizes[strings.TrimSuffix(words[0], ":")] = n
		}
	}
	return sizes
}

// guestMemory is the memory of an idle VM, in KiB.
type guestMemory struct {
	// VM is the size of the VM, Total what its kernel leaves of it.
	VM        int64 `json:"vmKiB"`
	Total     int64 `json:"totalKiB"`
	Free      int64 `json:"freeKiB"`
	Available int64 `json:"availableKiB"`
}

func guestMemoryOf(meminfo string, vmMiB float64) (guestMemory, error) {
	sizes := kibibytes([]byte(meminfo))
	m := guestMemory{VM: int64(vmMiB) << 10, Total: sizes["MemTotal"], Free: sizes["MemFree"], Available: sizes["MemAvailable"]}
	if m.Total == 0 || m.Free == 0 || m.Available == 0 || m.VM < m.Total {
		return m, fmt.Errorf("the guest's memory in a VM of %v MiB makes no sense: %q", vmMiB, meminfo)
	}
	return m, nil
}

// file is one that is installed, once for all containers.
type file struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
}

// sizes returns those of the files that are there.
func sizes(paths ...string) []file {
	var list []file
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil {
			list = append(list, file{path, info.Size()})
		}
	}
	return list
}
