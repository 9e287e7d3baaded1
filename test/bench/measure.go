package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/nanoclaw/nanoclaw/test/internal/shimlog"
)

// figures are what was measured.
type figures struct {
	Conditions conditions `json:"conditions"`
	// Runtimes are those of this project, and last the one beside them.
	Runtimes []*costs `json:"runtimes"`
	Sizes    []file   `json:"sizes"`
}

// conditions are under which it was measured.
type conditions struct {
	Date    string `json:"date"`
	Host    string `json:"host"`
	Engine  string `json:"engine"`
	Image   string `json:"image"`
	Network string `json:"network"`
	Runs    int    `json:"runs"`
	// Note is what whoever ran it wants its readers to know.
	Note       string `json:"note,omitempty"`
	LoadBefore string `json:"loadBefore"`
	LoadAfter  string `json:"loadAfter"`
}

// costs are a runtime's.
type costs struct {
	Runtime   string    `json:"runtime"`
	Starts    []sample  `json:"starts"`
	Execs     []float64 `json:"execMs"`
	Processes []process `json:"processes"`
	// Guest is nil for a runtime whose containers have none.
	Guest *guest `json:"guest,omitempty"`
}

// guest is what there is only with a guest.
type guest struct {
	Hypervisor   string      `json:"hypervisor"`
	VM           string      `json:"vm"`
	CallsPerRun  float64     `json:"callsPerRun"`
	RunMethods   string      `json:"runMethods"`
	CallsPerExec float64     `json:"callsPerExec"`
	ExecMethods  string      `json:"execMethods"`
	Memory       guestMemory `json:"memory"`
	// Gate is nil where the exec gate was not measured.
	Gate *gate `json:"gate,omitempty"`
}

// guests are the runtimes whose containers have one.
func (f *figures) guests() []*costs {
	return slices.DeleteFunc(slices.Clone(f.Runtimes), func(c *costs) bool { return c.Guest == nil })
}

// beside is the runtime that the others are compared with.
func (f *figures) beside() *costs { return f.Runtimes[len(f.Runtimes)-1] }

// patience is how long the shim's messages may take to be in the log.
const patience = 10 * time.Second

// bench is a measurement under way.
type bench struct {
	options
	engine engine
	log    *shimlog.Log
	f      *figures
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...) }

func measure(ctx context.Context, o options) (_ *figures, err error) {
	b := &bench{
		options: o,
		engine:  engine{client: o.docker, image: o.image, network: o.network, ctx: ctx},
		f:       &figures{},
	}
	for _, name := range o.runtimes {
		b.f.Runtimes = append(b.f.Runtimes, &costs{Runtime: name, Guest: &guest{}})
	}
	b.f.Runtimes = append(b.f.Runtimes, &costs{Runtime: o.against})
	if b.log, err = shimlog.Open(o.log); err != nil {
		return nil, err
	}
	for _, step := range []func() error{b.conditions, b.starts, b.callsPerRun, b.memory, b.execs, b.gates} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	b.sizes()
	b.f.Conditions.LoadAfter = load()
	return b.f, nil
}

// conditions runs a container of each runtime that is not counted: the first
// one of an engine may have to find out which hypervisor works, and reads files
// that later ones find in memory.
func (b *bench) conditions() error {
	b.f.Conditions = conditions{
		Date: time.Now().UTC().Format(time.DateOnly), Host: host(), Image: b.image,
		Network: b.network, Runs: b.runs, Note: b.note, LoadBefore: load(),
	}
	if b.network == "" {
		b.f.Conditions.Network = "the engine's default"
	}
	version, err := b.engine.docker("version", "--format", "Docker {{.Server.Version}}{{range .Server.Components}}{{if ne .Name \"Engine\"}}, {{.Name}} {{.Version}}{{end}}{{end}}")
	if err != nil {
		return err
	}
	b.f.Conditions.Engine = version
	say("warming up: %s", version)
	for _, c := range b.f.Runtimes {
		r, err := b.engine.run(c.Runtime, "echo")
		if err != nil {
			return err
		}
		if c.Guest == nil {
			continue
		}
		started, err := b.log.Wait(r.id, shimlog.Started, patience)
		if err != nil {
			return err
		}
		c.Guest.Hypervisor = started["hypervisor"]
		c.Guest.VM = fmt.Sprintf("%s virtual CPUs, %s MiB", started["cpus"], started["memory_mib"])
		say("%s: %s, %s", c.Runtime, c.Guest.Hypervisor, c.Guest.VM)
	}
	return nil
}

// inTurn measures the runtimes in turn, as often as is asked for, and tells
// what came out.
func (b *bench) inTurn(what string, one func(*costs) (float64, error)) error {
	for i := range b.runs {
		var said []string
		for _, c := range b.f.Runtimes {
			took, err := one(c)
			if err != nil {
				return fmt.Errorf("%s: %w", c.Runtime, err)
			}
			said = append(said, fmt.Sprintf("%s %.0f ms", c.Runtime, took))
		}
		say("%s %d of %d: %s", what, i+1, b.runs, strings.Join(said, ", "))
	}
	return nil
}

// starts times "docker run".
func (b *bench) starts() error {
	return b.inTurn("start", func(c *costs) (float64, error) {
		r, err := b.engine.run(c.Runtime, "echo", "x")
		if err != nil {
			return 0, err
		}
		s, err := timed(r)
		if err != nil {
			return 0, err
		}
		if c.Guest != nil {
			started, err := b.log.Wait(r.id, shimlog.Started, patience)
			if err != nil {
				return 0, err
			}
			closed, err := b.log.Wait(r.id, shimlog.Closed, patience)
			if err != nil {
				return 0, err
			}
			if err := s.split(r, started, closed); err != nil {
				return 0, err
			}
		}
		c.Starts = append(c.Starts, s)
		return s.Total, nil
	})
}

func (b *bench) callsPerRun() error {
	for _, c := range b.f.guests() {
		r, err := b.engine.run(c.Runtime, "true")
		if err != nil {
			return err
		}
		e, err := b.log.Wait(r.id, shimlog.Closed, patience)
		if err != nil {
			return err
		}
		c.Guest.RunMethods = e["guest_methods"]
		if c.Guest.CallsPerRun, err = e.Number("guest_calls"); err != nil {
			return err
		}
	}
	return nil
}

// memory looks at an idle container of each runtime. One at a time: processes
// of two containers of ours share pages, which would make each look smaller.
func (b *bench) memory() error {
	for _, c := range b.f.Runtimes {
		say("memory of %s: %s of idling", c.Runtime, b.settle)
		if err := b.with(c.Runtime, func(id string) error { return b.idle(c, id) }); err != nil {
			return fmt.Errorf("%s: %w", c.Runtime, err)
		}
	}
	return nil
}

// with does something with a container that sleeps, and removes it.
func (b *bench) with(runtime string, do func(id string) error) (err error) {
	id, err := b.engine.start(runtime)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.engine.remove(id)) }()
	return do(id)
}

func (b *bench) idle(c *costs, id string) (err error) {
	time.Sleep(b.settle)
	p := proc{os.DirFS("/proc")}
	if c.Processes, err = p.of(id, sleeper); err != nil || c.Guest == nil {
		return err
	}
	started, err := b.log.Wait(id, shimlog.Started, patience)
	if err != nil {
		return err
	}
	size, err := started.Number("memory_mib")
	if err != nil {
		return err
	}
	meminfo, err := b.engine.docker("exec", id, "cat", "/proc/meminfo")
	if err != nil {
		return err
	}
	c.Guest.Memory, err = guestMemoryOf(meminfo, size)
	return err
}

// execs times "docker exec" in a container of each runtime.
func (b *bench) execs() error {
	ids := map[*costs]string{}
	if err := b.execsIn(ids); err != nil {
		return err
	}
	for _, c := range b.f.guests() {
		if err := b.callsPerExec(c, ids[c]); err != nil {
			return err
		}
	}
	return nil
}

// execsIn notes the containers, which are gone when it returns.
func (b *bench) execsIn(ids map[*costs]string) (err error) {
	defer func() {
		for _, id := range ids {
			err = errors.Join(err, b.engine.remove(id))
		}
	}()
	for _, c := range b.f.Runtimes {
		if ids[c], err = b.engine.start(c.Runtime); err != nil {
			delete(ids, c)
			return err
		}
	}
	return b.inTurn("exec", func(c *costs) (float64, error) {
		took, err := b.engine.exec(ids[c])
		c.Execs = append(c.Execs, ms(took))
		return ms(took), err
	})
}

// callsPerExec takes what a container costs without execs from what one with
// them cost. Being removed by force, it was killed by a call of its own.
func (b *bench) callsPerExec(c *costs, id string) error {
	e, err := b.log.Wait(id, shimlog.Closed, patience)
	if err != nil {
		return err
	}
	calls, err := e.Number("guest_calls")
	if err != nil {
		return err
	}
	c.Guest.ExecMethods = e["guest_methods"]
	kills, err := shimlog.Parse("Kill=0 " + e["guest_methods"]).Number("Kill")
	if err != nil {
		return err
	}
	c.Guest.CallsPerExec = (calls - kills - c.Guest.CallsPerRun) / float64(b.runs)
	return nil
}

func (b *bench) sizes() {
	paths := []string{
		filepath.Join(b.lib, "vmlinux"), filepath.Join(b.lib, "guest.img"),
		filepath.Join(b.bin, "containerd-shim-nanoclaw-v2"), filepath.Join(b.bin, "nanoclaw-agent"),
	}
	for _, name := range []string{"containerd-shim-runc-v2", "runc"} {
		if path, err := exec.LookPath(name); err == nil {
			paths = append(paths, path)
		}
	}
	b.f.Sizes = sizes(paths...)
}

// host says in a few words which machine this is.
func host() string {
	words := []string{fmt.Sprintf("%d CPUs", runtime.NumCPU())}
	if cpuinfo, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(cpuinfo)) {
			if key, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				words = append(words, strings.TrimSpace(model))
				break
			}
		}
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		words = append(words, "Linux "+strings.TrimSpace(string(release)))
	}
	return strings.Join(words, ", ")
}

// load is the machine's load: the averages over 1, 5 and 15 minutes.
func load() string {
	loadavg, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(loadavg))[:3], " ")
}
