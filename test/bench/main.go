// Command bench measures what a container in a VM costs, with one runtime or
// with several in turn, beside what the same container costs with runc, on the
// Docker Engine that DOCKER_HOST names. It reads the figures that the shim writes into containerd's log, so it runs
// where that engine runs; test/bench/run puts it there.
//
// It measures and judges nothing: test/e2e keeps the counts that must not grow.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"
)

// options are what can be set.
type options struct {
	runs                   int
	runtimes               []string
	against                string
	docker, image, network string
	log, bin, lib          string
	gateImage              string
	rules                  int
	note                   string
	format, from           string
	settle                 time.Duration
}

func main() {
	name := os.Getenv("NANOCLAW_ENGINE")
	if name == "" {
		name = "nanoclaw-engine"
	}
	var o options
	flag.IntVar(&o.runs, "n", 3, "how often each time is measured")
	names := flag.String("runtime", "nanoclaw", "the runtime that is measured, or several, with commas between")
	flag.StringVar(&o.against, "against", "runc", "the runtime beside it")
	flag.StringVar(&o.docker, "docker", "docker", "the Docker client's command")
	flag.StringVar(&o.image, "image", "busybox", "an image that has echo, true, sleep and cat")
	flag.StringVar(&o.network, "network", "", "the containers' network; empty: the engine's default")
	flag.StringVar(&o.log, "log", "/run/"+name+"/containerd.log", "the file that containerd's log goes to")
	flag.StringVar(&o.bin, "bin", "/usr/local/bin", "where the programs are installed")
	flag.StringVar(&o.lib, "lib", "/usr/local/lib/nanoclaw", "where the kernel and the guest's image are installed")
	flag.StringVar(&o.gateImage, "gate", "userland", "an image with ordinary programs, for the exec gate's cost; empty, or none of the engine's: not measured")
	flag.IntVar(&o.rules, "rules", 200, "how many programs the gate has rules about")
	flag.StringVar(&o.note, "note", "", "a sentence for the report's readers")
	flag.StringVar(&o.format, "format", "text", "text, markdown or json")
	flag.StringVar(&o.from, "from", "", "measure nothing, but report what an earlier run wrote as JSON to this file")
	flag.DurationVar(&o.settle, "settle", 5*time.Second, "how long containers idle before their memory is read")
	flag.Parse()

	write, ok := map[string]func(io.Writer, *figures) error{"text": writeText, "markdown": writeMarkdown, "json": writeJSON}[o.format]
	var err error
	if o.runtimes, err = runtimes(*names, o.against); err != nil || !ok || o.runs < 1 || o.rules < 1 || flag.NArg() > 0 {
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	figuresOf := measure
	if o.from != "" {
		figuresOf = earlier
	}
	f, err := figuresOf(ctx, o)
	if err == nil {
		err = write(os.Stdout, f)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// runtimes are the names in list, which are different ones and not the one that
// they are compared with.
func runtimes(list, against string) ([]string, error) {
	names := strings.Split(list, ",")
	seen := map[string]bool{"": true, against: true}
	for _, name := range names {
		if seen[name] {
			return nil, fmt.Errorf("-runtime %q beside -against %q: %q is no further runtime", list, against, name)
		}
		seen[name] = true
	}
	return names, nil
}

// earlier reads the figures of an earlier run.
func earlier(_ context.Context, o options) (*figures, error) {
	data, err := os.ReadFile(o.from)
	if err != nil {
		return nil, err
	}
	var f figures
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("%s: %w", o.from, err)
	}
	if err := f.check(); err != nil {
		return nil, fmt.Errorf("%s is no report of this program: %w", o.from, err)
	}
	return &f, nil
}

// check reports whether there is what the tables need.
func (f *figures) check() error {
	if len(f.Runtimes) < 2 {
		return fmt.Errorf("it has %d runtimes", len(f.Runtimes))
	}
	for i, c := range f.Runtimes {
		if c == nil || len(c.Starts) == 0 || len(c.Execs) == 0 {
			return fmt.Errorf("runtime %d of it has no times", i+1)
		}
		if beside := i == len(f.Runtimes)-1; beside != (c.Guest == nil) {
			return fmt.Errorf("all but the last of its runtimes have a guest, but %q is number %d of %d", c.Runtime, i+1, len(f.Runtimes))
		}
		if g := c.Guest; g != nil && g.Gate != nil && (len(g.Gate.Without) == 0 || len(g.Gate.With) == 0) {
			return fmt.Errorf("the gate of %q has no times", c.Runtime)
		}
	}
	return nil
}

func writeJSON(w io.Writer, f *figures) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(f)
}
