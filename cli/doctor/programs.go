package doctor

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/nanoclaw/nanoclaw/hypervisor/cloudhypervisor"
	"github.com/nanoclaw/nanoclaw/internal/program"
	"github.com/nanoclaw/nanoclaw/shim/config"
)

// needed is a program and which version of it.
type needed struct {
	name    string
	program string // the configuration's word for it
	known   []string
	least   version
	needed  bool
	// source is where to get it.
	source string
}

const debian = "in Debian 14 and later, apt-get install "

// programs looks for what starts VMs. hypervisor is the chosen one's name; its
// programs are needed, and those of the other are not.
func programs(ctx context.Context, c config.Config, file, hypervisor string) Section {
	s := Section{Name: "Programs"}
	ch := hypervisor == "cloud-hypervisor" || hypervisor == "" && c.Hypervisor == "cloud-hypervisor"
	qemu := strings.HasPrefix(hypervisor, "qemu") || hypervisor == "" && c.Hypervisor == "qemu"
	for _, p := range []needed{
		{"virtiofsd", c.Virtiofsd, program.Virtiofsd, version{1, 10}, true, debian + "virtiofsd"},
		{"cloud-hypervisor", c.CloudHypervisor, nil, version{cloudhypervisor.MinVersion, 0}, ch, "its releases: https://github.com/cloud-hypervisor/cloud-hypervisor/releases"},
		{"qemu", c.QEMU, nil, version{8, 0}, qemu, debian + "qemu-system-x86"},
		{"vhost-device-vsock", c.VhostDeviceVsock, program.VhostDeviceVsock, version{0, 3}, qemu, debian + "vhost-device-vsock"},
	} {
		status, fix := Unused, ""
		if p.needed {
			status, fix = Problem, p.source
		}
		path, err := program.Find(p.program, file, p.known...)
		if err != nil {
			s.add(p.name, status, fix, "%v", err)
			continue
		}
		said, err := versionOf(ctx, path)
		switch {
		case err != nil:
			s.add(p.name, status, fix, "%s: %v", path, err)
		case said.version.less(p.least):
			s.add(p.name, status, fix, "%s: version %v is too old, %v is the least", path, said.version, p.least)
		default:
			s.add(p.name, OK, "", "%s: %s", path, said.line)
		}
	}
	return s
}

// version is the first two numbers of one.
type version [2]int

// String is part of fmt.Stringer.
func (v version) String() string { return fmt.Sprintf("%d.%d", v[0], v[1]) }

func (v version) less(o version) bool { return v[0] < o[0] || v[0] == o[0] && v[1] < o[1] }

// answer is what a program says of its version.
type answer struct {
	version version
	line    string // the first
}

var versionPattern = regexp.MustCompile(`(?:^|[^0-9.])([0-9]{1,5})\.([0-9]{1,5})`)

// versionTime bounds how long a program may take to say its version, and
// maxAnswer how much is read of that.
const (
	versionTime = 10 * time.Second
	maxAnswer   = 4 << 10
)

func versionOf(ctx context.Context, path string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTime)
	defer cancel()
	var out limited
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	text := strings.TrimSpace(strings.ToValidUTF8(out.String(), "?"))
	if err != nil {
		return answer{}, fmt.Errorf("%w; it said %q", err, text)
	}
	return parseVersion(text)
}

// parseVersion reads what a program said to --version.
func parseVersion(text string) (answer, error) {
	if strings.Contains(text, "FUSE kernel interface") {
		return answer{}, fmt.Errorf("this is QEMU's own virtiofsd, a different program: %.80q", text)
	}
	line, _, _ := strings.Cut(text, "\n")
	m := versionPattern.FindStringSubmatch(line)
	if m == nil {
		return answer{}, fmt.Errorf("it says %.80q where a version was expected", line)
	}
	// The pattern lets nothing else through.
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	return answer{version{major, minor}, line}, nil
}

// limited keeps the beginning of what is written to it.
type limited struct{ bytes.Buffer }

// Write is part of io.Writer. It never fails.
func (l *limited) Write(p []byte) (int, error) {
	_, _ = l.Buffer.Write(p[:min(len(p), maxAnswer-l.Len())])
	return len(p), nil
}
