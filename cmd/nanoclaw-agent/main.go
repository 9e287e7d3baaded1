// Command nanoclaw-agent is PID 1 of a NanoClaw VM.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/containerd/log"
	"github.com/nanoclaw/nanoclaw/guestagent"
	"github.com/nanoclaw/nanoclaw/guestagent/boot"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "nanoclaw-agent is the first process of a NanoClaw VM and does nothing elsewhere")
		os.Exit(2)
	}
	boot.PlainLog()
	machine := &boot.Machine{}
	defer func() {
		if r := recover(); r != nil {
			log.L.Errorf("panic: %v\n%s", r, debug.Stack())
			machine.PowerOff("the agent failed")
		}
	}()
	err := guestagent.Run(context.Background(), machine)
	log.L.WithError(err).Error("the agent ends")
	machine.PowerOff(err.Error())
}
