// Command soak makes and removes many containers in VMs, and kills the parts they
// are made of, and looks after each step for anything that is left. It needs the
// embedded engine, which test/engine/up starts.
//
// What it did is in a log of one JSON object in a line, by which a run that was
// ended goes on. It judges what is left, what failed, and whether a shim grows;
// how long things take it only tells.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nanoclaw/nanoclaw/test/internal/remains"
)

// defaults are a full run's.
var defaults = plan{Lifecycles: 1000, Kills: 200, AtOnce: 4, Group: 20}

func main() {
	p := defaults
	var file string
	var resume bool
	flag.IntVar(&p.Lifecycles, "n", p.Lifecycles, "how many containers are created, started, entered, killed and deleted")
	flag.IntVar(&p.Kills, "kills", p.Kills, "how often one of shim, VMM, virtiofsd and containerd is killed")
	flag.IntVar(&p.AtOnce, "at-once", p.AtOnce, "how many of the containers live at once")
	flag.DurationVar(&p.For, "for", 0, "begin nothing new after this time; 0: no bound")
	flag.Uint64Var(&p.Seed, "seed", uint64(time.Now().UnixNano()), "chooses what is killed; a run that goes on keeps its own")
	flag.StringVar(&file, "log", "out/soak.jsonl", "the file of what was done")
	flag.BoolVar(&resume, "resume", false, "go on with the run that the file is of")
	flag.Parse()
	if flag.NArg() > 0 || p.AtOnce < 1 || p.Lifecycles < 0 || p.Kills < 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, p, file, resume); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, p plan, file string, resume bool) (err error) {
	enter, err := filepath.Abs("test/engine/enter")
	if err != nil {
		return err
	}
	journal, err := openJournal(file, &p, resume)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, journal.Close()) }()
	if err := run(ctx, p, remains.New(enter), journal); err != nil {
		return err
	}
	s := journal.summary()
	fmt.Print(s.text(p))
	return s.verdict()
}
