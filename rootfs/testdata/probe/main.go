// Command probe stands in for the agent as PID 1 of a guest that is booted by the test in rootfs. It prints what the
// test asks about the kernel and the image, one "name: value" a line, and powers the guest off.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sort"
	"strings"
	"syscall"
)

func main() {
	fmt.Println("pid:", os.Getpid())
	if os.Getpid() != 1 {
		return
	}
	for _, m := range []struct{ kind, at string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}, {"tmpfs", "/tmp"},
		{"securityfs", "/sys/kernel/security"}, {"cgroup2", "/sys/fs/cgroup"},
	} {
		if err := syscall.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			fmt.Printf("mount %s: %v\n", m.at, err)
		}
	}
	fmt.Println("release:", content("/proc/sys/kernel/osrelease"))
	fmt.Println("lsm:", content("/sys/kernel/security/lsm"))
	fmt.Println("controllers:", content("/sys/fs/cgroup/cgroup.controllers"))
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	fmt.Println("btf:", err == nil)
	fmt.Println("read-only:", errors.Is(os.WriteFile("/x", nil, 0o600), syscall.EROFS))
	fmt.Println("tree:", strings.Join(tree("/usr"), " "))
	version, err := exec.Command("/usr/bin/crun", "--version").CombinedOutput()
	fmt.Println("crun:", strings.SplitN(string(version), "\n", 2)[0], err)
	fmt.Println("memory:", memory())
	if err := syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("power off:", err)
	}
}

func content(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}

// tree lists the files below a folder, by the names relative to it.
func tree(at string) []string {
	var found []string
	entries, err := os.ReadDir(at)
	if err != nil {
		return []string{err.Error()}
	}
	for _, e := range entries {
		if e.IsDir() {
			for _, below := range tree(at + "/" + e.Name()) {
				found = append(found, e.Name()+"/"+below)
			}
			continue
		}
		found = append(found, e.Name())
	}
	sort.Strings(found)
	return found
}

func memory() string {
	var fields []string
	for _, line := range strings.Split(content("/proc/meminfo"), "\n") {
		for _, name := range []string{"MemTotal:", "MemFree:", "MemAvailable:"} {
			if strings.HasPrefix(line, name) {
				fields = append(fields, strings.Join(strings.Fields(line), " "))
			}
		}
	}
	return strings.Join(fields, ", ")
}
