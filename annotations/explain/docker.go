package explain

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/pflag"

	"github.com/nanoclaw/nanoclaw/annotations"
)

// Request is a container that has not been started.
type Request struct {
	Annotations map[string]string
	// Mounts are the bind mounts; their sources are not resolved.
	Mounts []annotations.Mount
	// Runtime is what --runtime says, or "".
	Runtime string
	// Command is the entry point and the command, as far as they are given.
	Command []string
	// Notes are what a person should know about the command line.
	Notes []string

	spec *specs.Spec
}

// switches are docker run's flags without a value, values those with one. What
// a policy cares about is read in parse.
const (
	switches = "detach disable-content-trust help init interactive no-healthcheck oom-kill-disable privileged publish-all quiet " +
		"read-only rm sig-proxy tty use-api-socket"
	values = "add-host annotation attach blkio-weight blkio-weight-device cap-add cap-drop cgroup-parent cgroupns cidfile cpu-count " +
		"cpu-percent cpu-period cpu-quota cpu-rt-period cpu-rt-runtime cpu-shares cpus cpuset-cpus cpuset-mems detach-keys device " +
		"device-cgroup-rule device-read-bps device-read-iops device-write-bps device-write-iops dns dns-opt dns-option dns-search " +
		"domainname entrypoint env env-file expose gpus group-add health-cmd health-interval health-retries health-start-interval " +
		"health-start-period health-timeout hostname io-maxbandwidth io-maxiops ip ip6 ipc isolation kernel-memory label label-file " +
		"link link-local-ip log-driver log-opt mac-address memory memory-reservation memory-swap memory-swappiness mount name net " +
		"net-alias network network-alias oom-score-adj pid pids-limit platform publish pull restart runtime security-opt shm-size " +
		"stop-signal stop-timeout storage-opt sysctl tmpfs ulimit user userns uts volume volume-driver volumes-from workdir"
)

// short are the flags that have a letter.
var short = map[string]string{
	"detach": "d", "interactive": "i", "tty": "t", "publish-all": "P", "quiet": "q", "attach": "a", "cpu-shares": "c", "env": "e",
	"hostname": "h", "label": "l", "memory": "m", "publish": "p", "user": "u", "volume": "v", "workdir": "w",
}

// Docker reads the command line of docker run or docker create. The words
// before the flags may be there or not.
func Docker(args []string) (*Request, error) {
	f := pflag.NewFlagSet("docker run", pflag.ContinueOnError)
	f.SetInterspersed(false)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	for name := range strings.FieldsSeq(switches) {
		f.BoolP(name, short[name], false, "")
	}
	for name := range strings.FieldsSeq(values) {
		f.StringArrayP(name, short[name], nil, "")
	}
	for _, word := range []string{"docker", "container"} {
		if len(args) > 0 && args[0] == word {
			args = args[1:]
		}
	}
	if len(args) > 0 && (args[0] == "run" || args[0] == "create") {
		args = args[1:]
	}
	if err := f.Parse(args); err != nil {
		return nil, fmt.Errorf("read the docker command line: %w", err)
	}
	if f.NArg() == 0 {
		return nil, errors.New("the docker command line names no image")
	}
	return parse(f)
}

// flags gives the flags' values without errors that cannot be.
type flags struct{ *pflag.FlagSet }

func (f flags) all(name string) []string {
	s, _ := f.GetStringArray(name)
	return s
}

// last is the value that counts of a flag that is given more than once.
func (f flags) last(name string) string {
	if s := f.all(name); len(s) > 0 {
		return s[len(s)-1]
	}
	return ""
}

func parse(set *pflag.FlagSet) (*Request, error) {
	f := flags{set}
	r := &Request{Annotations: map[string]string{}, Runtime: f.last("runtime"), spec: emptySpec()}
	for _, s := range f.all("annotation") {
		key, value, _ := strings.Cut(s, "=")
		r.Annotations[key] = value
	}
	for _, s := range f.all("label") {
		if key, _, _ := strings.Cut(s, "="); annotations.Ours(key) {
			r.Notes = append(r.Notes, "--label "+key+" is a label, and labels are not read; write --annotation")
		}
	}
	if entry := f.last("entrypoint"); entry != "" {
		r.Command = append(r.Command, entry)
	}
	r.Command = append(r.Command, f.Args()[1:]...)
	steps := []func(flags) error{r.volumes, r.mounts, r.limits, r.namespaces, r.devices}
	for _, step := range steps {
		if err := step(f); err != nil {
			return nil, err
		}
	}
	for _, m := range r.Mounts {
		options := []string{"rbind", "rw"}
		if m.ReadOnly {
			options[1] = "ro"
		}
		r.spec.Mounts = append(r.spec.Mounts, specs.Mount{Type: "bind", Source: m.Source.Asked, Destination: m.Destination, Options: options})
	}
	return r, nil
}

// emptySpec is what matters of the spec that Docker makes without any flag.
func emptySpec() *specs.Spec {
	s := &specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{}, CgroupsPath: "/docker/ID"}}
	for _, kind := range []specs.LinuxNamespaceType{specs.MountNamespace, specs.NetworkNamespace, specs.UTSNamespace, specs.PIDNamespace, specs.IPCNamespace} {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind})
	}
	return s
}

// volumes reads -v. A name without a slash is a volume, and so is a destination
// alone.
func (r *Request) volumes(f flags) error {
	for _, s := range f.all("volume") {
		parts := strings.Split(s, ":")
		if len(parts) > 3 {
			return fmt.Errorf("-v %s has too many colons", s)
		}
		if len(parts) == 1 || !strings.ContainsAny(parts[0], "/.~") {
			continue
		}
		m := annotations.Mount{Destination: path.Clean(parts[1]), Source: annotations.Source{Asked: parts[0]}}
		if len(parts) == 3 {
			m.ReadOnly = slices.Contains(strings.Split(parts[2], ","), "ro")
		}
		r.Mounts = append(r.Mounts, m)
	}
	return nil
}

// mounts reads --mount.
func (r *Request) mounts(f flags) error {
	for _, s := range f.all("mount") {
		fields, err := csv.NewReader(strings.NewReader(s)).Read()
		if err != nil {
			return fmt.Errorf("read --mount %s: %w", s, err)
		}
		kind := "volume"
		var m annotations.Mount
		for _, field := range fields {
			key, value, hasValue := strings.Cut(field, "=")
			switch strings.ToLower(key) {
			case "type":
				kind = value
			case "source", "src":
				m.Source.Asked = value
			case "target", "destination", "dst":
				m.Destination = path.Clean(value)
			case "readonly", "ro":
				m.ReadOnly = !hasValue || value == "true" || value == "1"
			}
		}
		if kind != "bind" {
			continue
		}
		if m.Source.Asked == "" || m.Destination == "" {
			return fmt.Errorf("--mount %s has no source or no target", s)
		}
		r.Mounts = append(r.Mounts, m)
	}
	return nil
}

func (r *Request) limits(f flags) error {
	res := r.spec.Linux.Resources
	if s := f.last("memory"); s != "" {
		n, why, _ := annotations.ParseLimit("memory", s)
		if why != "" {
			return fmt.Errorf("--memory %s: %s", s, why)
		}
		res.Memory = &specs.LinuxMemory{Limit: &n}
	}
	if s := f.last("cpus"); s != "" {
		n, why, _ := annotations.ParseLimit("cpus", s)
		if why != "" {
			return fmt.Errorf("--cpus %s: %s", s, why)
		}
		quota, period := n*100, uint64(100000)
		res.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	for name, to := range map[string]func(int64){
		"pids-limit": func(n int64) { res.Pids = &specs.LinuxPids{Limit: &n} },
		"cpu-quota":  func(n int64) { r.cpu().Quota = &n },
		"cpu-period": func(n int64) {
			if n > 0 {
				period := uint64(n)
				r.cpu().Period = &period
			}
		},
	} {
		if s := f.last(name); s != "" {
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				return fmt.Errorf("--%s %s is not a number", name, s)
			}
			to(n)
		}
	}
	return nil
}

func (r *Request) cpu() *specs.LinuxCPU {
	if r.spec.Linux.Resources.CPU == nil {
		r.spec.Linux.Resources.CPU = &specs.LinuxCPU{}
	}
	return r.spec.Linux.Resources.CPU
}

// namespaces reads what asks for namespaces of the host or of another container.
func (r *Request) namespaces(f flags) error {
	network := f.last("network")
	if network == "" {
		network = f.last("net")
	}
	for kind, value := range map[specs.LinuxNamespaceType]string{
		specs.PIDNamespace: f.last("pid"), specs.IPCNamespace: f.last("ipc"), specs.UTSNamespace: f.last("uts"), specs.NetworkNamespace: network,
	} {
		other, isOther := strings.CutPrefix(value, "container:")
		switch {
		case value == "host":
			r.spec.Linux.Namespaces = slices.DeleteFunc(r.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
		case isOther:
			i := slices.IndexFunc(r.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
			r.spec.Linux.Namespaces[i].Path = "the namespace of " + other
		}
	}
	return nil
}

func (r *Request) devices(f flags) error {
	if privileged, _ := f.GetBool("privileged"); privileged {
		r.spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		return nil
	}
	for _, d := range f.all("device") {
		r.spec.Linux.Devices = append(r.spec.Linux.Devices, specs.LinuxDevice{Path: d})
	}
	if gpus := f.last("gpus"); gpus != "" {
		r.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "of --gpus " + gpus}}}
	}
	return nil
}
