// Command nanoclaw is the operator's command of a host that runs containers in
// micro-VMs. What it can do is package cli.
package main

import (
	"context"
	"os"

	"github.com/nanoclaw/nanoclaw/cli"
)

func main() {
	os.Exit(cli.Run(context.Background(), os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
