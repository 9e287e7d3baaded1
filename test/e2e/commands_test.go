package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// fail ends a command of the scripts.
func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(64)
}

// host runs a command inside the engine's root, in place of this process, so
// that signals and streams are the command's own.
func host() { inside(os.Args, os.Args[1:]) }

// docker is the Docker client inside the engine.
func docker() { inside(os.Args, append([]string{"docker"}, noted(os.Args[1:])...)) }

func inside(shown, args []string) {
	enter := os.Getenv(envEnter)
	if recorded() {
		record(enter, args, append([]string{filepath.Base(shown[0])}, shown[1:]...))
	}
	err := syscall.Exec(enter, append([]string{enter}, args...), withoutRecord())
	fail("run %s: %v", enter, err)
}

// noted has containers that a script makes labelled, and their ids noted, so
// that what they leave can be looked for when they are gone. In a script that
// is run with several runtimes it names the one whose turn it is.
func noted(args []string) []string {
	if len(args) == 0 || (args[0] != "run" && args[0] != "create") {
		return args
	}
	named := slices.ContainsFunc(args, func(a string) bool { return a == "--runtime" || strings.HasPrefix(a, "--runtime=") })
	if runtime := os.Getenv(envRuntime); runtime != "" && !named {
		args = slices.Insert(slices.Clone(args), 1, "--runtime", runtime)
	}
	kind := "other"
	if slices.Contains(args, "nanoclaw") || slices.Contains(args, "--runtime=nanoclaw") {
		kind = "vm"
	}
	file := filepath.Join(os.Getenv(envIDs), fmt.Sprintf("%s-%d-%d", kind, os.Getpid(), time.Now().UnixNano()))
	return append([]string{args[0], "--label", "e2e=" + os.Getenv(envLabel), "--cidfile", file}, args[1:]...)
}

// exits CODE COMMAND… fails unless the command exits with just that code.
func exits() {
	if len(os.Args) < 3 {
		fail("usage: exits CODE COMMAND…")
	}
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	cmd.Env = append(os.Environ(), envRecord+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if got, want := code(cmd.Run()), number(os.Args[1]); got != want {
		fail("exit code %d, want %d", got, want)
	}
}

// within SECONDS COMMAND… repeats the command until it succeeds.
func within() {
	if len(os.Args) < 3 {
		fail("usage: within SECONDS COMMAND…")
	}
	limit := time.Now().Add(time.Duration(number(os.Args[1])*slow()) * time.Second)
	for {
		cmd := exec.Command(os.Args[2], os.Args[3:]...)
		cmd.Env = withoutRecord()
		out, err := cmd.CombinedOutput()
		if err == nil || time.Now().After(limit) {
			_, _ = os.Stdout.Write(out)
			if err != nil {
				fail("not within %s s: %v", os.Args[1], err)
			}
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// timeout SECONDS COMMAND… is the program of that name, with time for a slow
// machine.
func timeout() {
	if len(os.Args) < 3 {
		fail("usage: timeout SECONDS COMMAND…")
	}
	args := append([]string{os.Args[0], strconv.Itoa(number(os.Args[1]) * slow())}, os.Args[2:]...)
	// Not looked up: this command comes first in a script's PATH.
	err := syscall.Exec("/usr/bin/timeout", args, os.Environ())
	fail("run timeout: %v", err)
}

// slow is by how much everything may take longer than where the scripts were
// written: E2E_SLOW, 1 where that is not set.
func slow() int {
	if n, err := strconv.Atoi(os.Getenv(envSlow)); err == nil && n > 1 {
		return n
	}
	return 1
}

func code(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	fail("%v", err)
	return -1
}

func number(s string) int {
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		fail("%q is not a number", s)
	}
	return n
}
