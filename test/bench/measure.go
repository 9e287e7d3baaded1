package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/nanoclaw/nanoclaw/test/internal/shimlog"
)

// figures are what was measured. Ours and Theirs are the two runtimes, in turn.
type figures struct {
	Conditions conditions `json:"conditions"`
	Ours       costs      `json:"ours"`
	Theirs     costs      `json:"theirs"`
	Guest      guest      `json:"guest"`
	Sizes      []file     `json:"sizes"`
	TheirSizes []file     `json:"theirSizes"`
}

// conditions are under which it was measured.
type conditions struct {
	Date       string `json:"date"`
	Host       string `json:"host"`
	Engine     string `json:"engine"`
	Hypervisor string `json:"hypervisor"`
	VM         string `json:"vm"`
	Image      string `json:"image"`
	Network    string `json:"network"`
	Runs       int    `json:"runs"`
	LoadBefore string `json:"loadBefore"`
	LoadAfter  string `json:"loadAfter"`
}

// costs are a runtime's.
type costs struct {
	Runtime   string    `json:"runtime"`
	Starts    []sample  `json:"starts"`
	Execs     []float64 `json:"execMs"`
	Processes []process `json:"processes"`
}

// guest is what there is only with a guest.
type guest struct {
	CallsPerRun  float64     `json:"callsPerRun"`
	RunMethods   string      `json:"runMethods"`
	CallsPerExec float64     `json:"callsPerExec"`
	ExecMethods  string      `json:"execMethods"`
	Memory       guestMemory `json:"memory"`
}

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
		f:       &figures{Ours: costs{Runtime: o.runtime}, Theirs: costs{Runtime: o.against}},
	}
	if b.log, err = shimlog.Open(o.log); err != nil {
		return nil, err
	}
	if err := b.conditions(); err != nil {
		return nil, err
	}
	for _, step := range []func() error{b.starts, b.callsPerRun, b.running, b.sizes} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	b.f.Conditions.LoadAfter = load()
	return b.f, nil
}

// conditions runs a container of each runtime that is not counted: the first
// one of an engine may have to find out which hypervisor works, and reads files
// that later ones find in memory.
func (b *bench) conditions() error {
	b.f.Conditions = conditions{
		Date: time.Now().UTC().Format(time.DateOnly), Host: host(), Image: b.image,
		Network: b.network, Runs: b.runs, LoadBefore: load(),
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
	if _, err := b.engine.run(b.against, "echo"); err != nil {
		return err
	}
	r, err := b.engine.run(b.runtime, "echo")
	if err != nil {
		return err
	}
	started, err := b.log.Wait(r.id, shimlog.Started, patience)
	if err != nil {
		return err
	}
	b.f.Conditions.Hypervisor = started["hypervisor"]
	b.f.Conditions.VM = fmt.Sprintf("%s virtual CPUs, %s MiB", started["cpus"], started["memory_mib"])
	say("hypervisor: %s", started["hypervisor"])
	return nil
}

// starts times "docker run".
func (b *bench) starts() error {
	for i := range b.runs {
		r, err := b.engine.run(b.against, "echo", "x")
		if err != nil {
			return err
		}
		theirs, err := timed(r)
		if err != nil {
			return err
		}
		if r, err = b.engine.run(b.runtime, "echo", "x"); err != nil {
			return err
		}
		ours, err := timed(r)
		if err != nil {
			return err
		}
		started, err := b.log.Wait(r.id, shimlog.Started, patience)
		if err != nil {
			return err
		}
		closed, err := b.log.Wait(r.id, shimlog.Closed, patience)
		if err != nil {
			return err
		}
		if err := ours.split(r, started, closed); err != nil {
			return err
		}
		say("start %d of %d: %s %.0f ms, %s %.0f ms", i+1, b.runs, b.against, theirs.Total, b.runtime, ours.Total)
		b.f.Theirs.Starts = append(b.f.Theirs.Starts, theirs)
		b.f.Ours.Starts = append(b.f.Ours.Starts, ours)
	}
	return nil
}

func (b *bench) callsPerRun() error {
	r, err := b.engine.run(b.runtime, "true")
	if err != nil {
		return err
	}
	e, err := b.log.Wait(r.id, shimlog.Closed, patience)
	if err != nil {
		return err
	}
	b.f.Guest.RunMethods = e["guest_methods"]
	b.f.Guest.CallsPerRun, err = e.Number("guest_calls")
	return err
}

// running measures containers that are there: memory first, since an exec leaves
// traces in it.
func (b *bench) running() (err error) {
	theirs, err := b.engine.start(b.against)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.engine.remove(theirs)) }()
	ours, err := b.engine.start(b.runtime)
	if err != nil {
		return err
	}
	removed := false
	defer func() {
		if !removed {
			err = errors.Join(err, b.engine.remove(ours))
		}
	}()
	say("memory: %s of idling", b.settle)
	time.Sleep(b.settle)
	if err := b.memory(ours, theirs); err != nil {
		return err
	}
	if err := b.execs(ours, theirs); err != nil {
		return err
	}
	removed = true
	if err := b.engine.remove(ours); err != nil {
		return err
	}
	return b.callsPerExec(ours)
}

func (b *bench) memory(ours, theirs string) (err error) {
	p := proc{os.DirFS("/proc")}
	if b.f.Ours.Processes, err = p.of(ours, sleeper); err != nil {
		return err
	}
	if b.f.Theirs.Processes, err = p.of(theirs, sleeper); err != nil {
		return err
	}
	started, err := b.log.Wait(ours, shimlog.Started, patience)
	if err != nil {
		return err
	}
	size, err := started.Number("memory_mib")
	if err != nil {
		return err
	}
	meminfo, err := b.engine.docker("exec", ours, "cat", "/proc/meminfo")
	if err != nil {
		return err
	}
	b.f.Guest.Memory, err = guestMemoryOf(meminfo, size)
	return err
}

// execs times "docker exec", in turn.
func (b *bench) execs(ours, theirs string) error {
	for i := range b.runs {
		runc, err := b.engine.exec(theirs)
		if err != nil {
			return err
		}
		vm, err := b.engine.exec(ours)
		if err != nil {
			return err
		}
		say("exec %d of %d: %s %.0f ms, %s %.0f ms", i+1, b.runs, b.against, ms(runc), b.runtime, ms(vm))
		b.f.Theirs.Execs = append(b.f.Theirs.Execs, ms(runc))
		b.f.Ours.Execs = append(b.f.Ours.Execs, ms(vm))
	}
	return nil
}

// callsPerExec takes what a container costs without execs from what one with
// them cost. Being removed by force, it was killed by a call of its own.
func (b *bench) callsPerExec(id string) error {
	e, err := b.log.Wait(id, shimlog.Closed, patience)
	if err != nil {
		return err
	}
	calls, err := e.Number("guest_calls")
	if err != nil {
		return err
	}
	b.f.Guest.ExecMethods = e["guest_methods"]
	kills, err := shimlog.Parse("Kill=0 " + e["guest_methods"]).Number("Kill")
	if err != nil {
		return err
	}
	// One more exec than were timed has read the guest's memory.
	b.f.Guest.CallsPerExec = (calls - kills - b.f.Guest.CallsPerRun) / float64(b.runs+1)
	return nil
}

func (b *bench) sizes() error {
	b.f.Sizes = sizes(
		filepath.Join(b.lib, "vmlinux"), filepath.Join(b.lib, "guest.img"),
		filepath.Join(b.bin, "containerd-shim-nanoclaw-v2"), filepath.Join(b.bin, "nanoclaw-agent"))
	for _, name := range []string{"containerd-shim-runc-v2", "runc"} {
		if path, err := exec.LookPath(name); err == nil {
			b.f.TheirSizes = append(b.f.TheirSizes, sizes(path)...)
		}
	}
	return nil
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
