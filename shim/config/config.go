// Package config reads the host's configuration of the runtime,
// /etc/nanoclaw/config.yaml: which hypervisor, where its parts are, how large a
// VM is by default.
//
// It is not policy: what a container may do is package annotations. The file
// belongs to the host's root; nothing in a container's request can name
// another, only the engine's own configuration can.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// DefaultPath is the file that is read when the engine's configuration names
// no other. It may be absent: then every setting has its default.
const DefaultPath = "/etc/nanoclaw/config.yaml"

// maxBytes bounds the file; a real one has under 2 KiB.
const maxBytes = 64 << 10

// Config is the host's configuration. The zero value is not valid; see Default.
type Config struct {
	// Hypervisor is "auto", "cloud-hypervisor" or "qemu".
	Hypervisor string `yaml:"hypervisor"`
	// AllowEmulation permits QEMU without KVM. That is for development and
	// tests: emulation is not isolation.
	AllowEmulation bool `yaml:"allow_emulation"`

	// Kernel and Image are what a VM boots.
	Kernel string `yaml:"kernel"`
	Image  string `yaml:"image"`

	// Programs, each a path or a name to look up in PATH and in the folders
	// where distributions keep it.
	CloudHypervisor  string `yaml:"cloud_hypervisor"`
	QEMU             string `yaml:"qemu"`
	Virtiofsd        string `yaml:"virtiofsd"`
	VhostDeviceVsock string `yaml:"vhost_device_vsock"`

	// RunDir holds one short-named folder per VM.
	RunDir string `yaml:"run_dir"`

	// Policy is the policy file: what containers may do. See LoadPolicy.
	Policy string `yaml:"policy"`

	// ExtraRoots is a PEM file of certificate authorities, besides this host's.
	// See Roots.
	ExtraRoots string `yaml:"extra_roots"`

	// DefaultMemory is the guest's memory where the container has no limit.
	DefaultMemory Size `yaml:"default_memory"`
	// DefaultCPUs is the number of virtual CPUs where the container has no
	// limit; 0 is all of the host's, or one under emulation.
	DefaultCPUs int `yaml:"default_cpus"`

	// BootTimeout bounds the time from the VMM's start to the agent's call.
	BootTimeout Duration `yaml:"boot_timeout"`

	// Audit is where it is recorded what containers do.
	Audit Audit `yaml:"audit"`

	// File is where this is from, or would be, for messages.
	File string `yaml:"-"`
}

// Size is a number of bytes, written as in Docker: 512m, 2g.
type Size int64

// Duration is a time.Duration, written as 30s or 2m.
type Duration time.Duration

// Default returns the configuration of a host without a file.
func Default() Config {
	return Config{
		Hypervisor:       "auto",
		Kernel:           "/usr/local/lib/nanoclaw/vmlinux",
		Image:            "/usr/local/lib/nanoclaw/guest.img",
		CloudHypervisor:  "cloud-hypervisor",
		QEMU:             "qemu-system-x86_64",
		Virtiofsd:        "virtiofsd",
		VhostDeviceVsock: "vhost-device-vsock",
		RunDir:           "/run/nanoclaw",
		Policy:           DefaultPolicy,
		DefaultMemory:    2 << 30,
		BootTimeout:      Duration(60 * time.Second),
		Audit:            defaultAudit(),
		File:             DefaultPath,
	}
}

// Load reads the file at path, or DefaultPath if path is empty. Unknown keys
// and values out of range are errors that name the line.
func Load(path string) (Config, error) {
	c := Default()
	named := path != ""
	if !named {
		path = DefaultPath
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) && !named {
		return c, nil
	}
	if err != nil {
		return Config{}, fmt.Errorf("nanoclaw configuration: %w", err)
	}
	c.File = path
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return Config{}, fmt.Errorf("nanoclaw configuration %s: %w", path, err)
	}
	if len(data) > maxBytes {
		return Config{}, fmt.Errorf("nanoclaw configuration %s is over %d bytes", path, maxBytes)
	}
	if err := decode(data, &c); err != nil {
		return Config{}, fmt.Errorf("nanoclaw configuration %s: %w", path, err)
	}
	return c, nil
}

func decode(data []byte, c *Config) error {
	// A document without content would set the whole to its zero value.
	read := *c
	if err := yaml.UnmarshalWithOptions(data, &read, yaml.Strict()); err != nil {
		return err
	}
	if read != (Config{}) {
		*c = read
	}
	return c.validate()
}

func (c *Config) validate() error {
	var errs []error
	switch c.Hypervisor {
	case "auto", "cloud-hypervisor", "qemu":
	default:
		errs = append(errs, fmt.Errorf("hypervisor: %q is none of auto, cloud-hypervisor, qemu", c.Hypervisor))
	}
	for name, path := range map[string]string{"kernel": c.Kernel, "image": c.Image, "run_dir": c.RunDir, "policy": c.Policy} {
		if !filepath.IsAbs(path) {
			errs = append(errs, fmt.Errorf("%s: %q is not an absolute path", name, path))
		}
	}
	if c.ExtraRoots != "" && !filepath.IsAbs(c.ExtraRoots) {
		errs = append(errs, fmt.Errorf("extra_roots: %q is not an absolute path", c.ExtraRoots))
	}
	// Two folders and the longest socket name must fit a sockaddr_un.
	if len(c.RunDir) > 40 {
		errs = append(errs, fmt.Errorf("run_dir: %q is over 40 bytes; socket paths below it would not fit", c.RunDir))
	}
	if c.DefaultMemory < 64<<20 || c.DefaultMemory > 1<<42 {
		errs = append(errs, fmt.Errorf("default_memory: %d bytes are not within 64m and 4t", c.DefaultMemory))
	}
	if c.DefaultCPUs < 0 || c.DefaultCPUs > 64 {
		errs = append(errs, fmt.Errorf("default_cpus: %d is not within 0 and 64", c.DefaultCPUs))
	}
	if t := time.Duration(c.BootTimeout); t < time.Second || t > 10*time.Minute {
		errs = append(errs, fmt.Errorf("boot_timeout: %s is not within 1s and 10m", t))
	}
	return errors.Join(append(errs, c.Audit.validate())...)
}

// UnmarshalYAML reads a size with an optional unit b, k, m, g or t, in powers
// of 1024.
func (s *Size) UnmarshalYAML(data []byte) error {
	n, err := ParseSize(strings.Trim(string(bytes.TrimSpace(data)), `"'`))
	if err != nil {
		return err
	}
	*s = Size(n)
	return nil
}

// MarshalYAML writes a size in bytes.
func (s Size) MarshalYAML() ([]byte, error) { return strconv.AppendInt(nil, int64(s), 10), nil }

// MarshalYAML writes a duration as UnmarshalYAML reads it.
func (d Duration) MarshalYAML() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalYAML reads a duration as time.ParseDuration does.
func (d *Duration) UnmarshalYAML(data []byte) error {
	v, err := time.ParseDuration(strings.Trim(string(bytes.TrimSpace(data)), `"'`))
	if err != nil {
		return err
	}
	*d = Duration(v)
	return nil
}
