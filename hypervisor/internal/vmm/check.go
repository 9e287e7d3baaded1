package vmm

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/nanoclaw/nanoclaw/hypervisor"
)

const (
	maxCmdline = 2047 // the kernel's own bound, without the terminating zero
	maxDirPath = 60
	minCID     = 3
	pageSize   = 2 << 20
)

var (
	validNIC = regexp.MustCompile(`^[a-z0-9]{1,16}$`)
	// validTag is what fits the device and needs no quoting.
	validTag = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,36}$`)
)

// Check refuses what hypervisor.Config does not allow, and a hypervisor would
// misread or refuse in worse words. cmdline is the whole command line that the
// driver makes of c.
func Check(c hypervisor.Config, cmdline string) error {
	paths := []struct{ what, path string }{
		{"folder", c.Dir}, {"kernel", c.Kernel}, {"image", c.Image},
	}
	if c.FSSocket != "" {
		paths = append(paths, struct{ what, path string }{"share's socket", c.FSSocket})
	}
	for _, p := range paths {
		if !filepath.IsAbs(p.path) {
			return fmt.Errorf("the path of the %s is not absolute: %q", p.what, p.path)
		}
	}
	switch {
	case len(c.Dir) > maxDirPath:
		return fmt.Errorf("the VM's folder has a path of %d bytes, more than %d: %s", len(c.Dir), maxDirPath, c.Dir)
	case c.CPUs < 1:
		return fmt.Errorf("%d CPUs", c.CPUs)
	case c.Memory < pageSize || c.Memory%pageSize != 0:
		return fmt.Errorf("%d bytes of memory are not a multiple of 2 MiB", c.Memory)
	case c.MaxCPUs != 0 && c.MaxCPUs < c.CPUs:
		return fmt.Errorf("at most %d CPUs, and %d to begin with", c.MaxCPUs, c.CPUs)
	case c.MaxMemory != 0 && c.MaxMemory < c.Memory:
		return fmt.Errorf("at most %d bytes of memory, and %d to begin with", c.MaxMemory, c.Memory)
	case c.CID < minCID:
		return fmt.Errorf("vsock context id %d is reserved", c.CID)
	case c.FSSocket != "" && !validTag.MatchString(c.FSTag):
		return fmt.Errorf("invalid mount tag %q", c.FSTag)
	}
	for _, word := range c.Cmdline {
		// A blank would make two parameters of one.
		if word == "" || strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return fmt.Errorf("invalid kernel parameter %q", word)
		}
	}
	if n := len(cmdline); n > maxCmdline {
		return fmt.Errorf("a kernel command line of %d bytes, more than %d", n, maxCmdline)
	}
	seen := map[string]bool{}
	for _, n := range c.NICs {
		if err := CheckNIC(n); err != nil {
			return err
		}
		if seen[n.ID] {
			return fmt.Errorf("two NICs are called %q", n.ID)
		}
		seen[n.ID] = true
	}
	return nil
}

// CheckNIC does the same for one NIC.
func CheckNIC(n hypervisor.NIC) error {
	if err := CheckNICID(n.ID); err != nil {
		return err
	}
	switch {
	case len(n.MAC) != 6:
		return fmt.Errorf("NIC %s: invalid MAC address %q", n.ID, n.MAC)
	case n.Tap == nil:
		return errors.New("NIC " + n.ID + " has no tap")
	}
	return nil
}

// CheckNICID does the same for a NIC's name.
func CheckNICID(id string) error {
	if !validNIC.MatchString(id) {
		return fmt.Errorf("invalid NIC id %q", id)
	}
	return nil
}
