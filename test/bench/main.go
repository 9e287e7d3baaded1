// Command bench measures what a container in a VM costs, beside what the same
// container costs with runc, on the Docker Engine that DOCKER_HOST names. It
// reads the figures that the shim writes into containerd's log, so it runs
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
	"time"
)

// options are what can be set.
type options struct {
	runs                   int
	runtime, against       string
	docker, image, network string
	log, bin, lib          string
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
	flag.StringVar(&o.runtime, "runtime", "nanoclaw", "the runtime that is measured")
	flag.StringVar(&o.against, "against", "runc", "the runtime beside it")
	flag.StringVar(&o.docker, "docker", "docker", "the Docker client's command")
	flag.StringVar(&o.image, "image", "busybox", "an image that has echo, true, sleep and cat")
	flag.StringVar(&o.network, "network", "", "the containers' network; empty: the engine's default")
	flag.StringVar(&o.log, "log", "/run/"+name+"/containerd.log", "the file that containerd's log goes to")
	flag.StringVar(&o.bin, "bin", "/usr/local/bin", "where the programs are installed")
	flag.StringVar(&o.lib, "lib", "/usr/local/lib/nanoclaw", "where the kernel and the guest's image are installed")
	flag.StringVar(&o.format, "format", "text", "text, markdown or json")
	flag.StringVar(&o.from, "from", "", "measure nothing, but report what an earlier run wrote as JSON to this file")
	flag.DurationVar(&o.settle, "settle", 5*time.Second, "how long containers idle before their memory is read")
	flag.Parse()

	write, ok := map[string]func(io.Writer, *figures) error{"text": writeText, "markdown": writeMarkdown, "json": writeJSON}[o.format]
	if !ok || o.runs < 1 || flag.NArg() > 0 {
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
	for _, c := range []costs{f.Ours, f.Theirs} {
		if len(c.Starts) == 0 || len(c.Execs) == 0 {
			return nil, fmt.Errorf("%s is no report of this program: it has no times", o.from)
		}
	}
	return &f, nil
}

func writeJSON(w io.Writer, f *figures) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(f)
}
