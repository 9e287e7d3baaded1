package e2e

import (
	"bytes"
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
func host() { inside(os.Args[1:]) }

// docker is the Docker client inside the engine.
func docker() { inside(append([]string{"docker"}, noted(os.Args[1:])...)) }

func inside(args []string) {
	enter := os.Getenv(envEnter)
	err := syscall.Exec(enter, append([]string{enter}, args...), os.Environ())
	fail("run %s: %v", enter, err)
}

// noted has containers that a script makes labelled, and their ids noted, so
// that what they leave can be looked for when they are gone.
func noted(args []string) []string {
	if len(args) == 0 || (args[0] != "run" && args[0] != "create") {
		return args
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
	limit := time.Now().Add(time.Duration(number(os.Args[1])) * time.Second)
	for {
		out, err := exec.Command(os.Args[2], os.Args[3:]...).CombinedOutput()
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

// same CODE ARGS… runs "docker run --rm ARGS…" with runc and in a VM, and fails
// unless both exit with the code and write the same to stdout.
func same() {
	if len(os.Args) < 3 {
		fail("usage: same CODE ARGS…")
	}
	stdouts := map[string]string{}
	for _, runtime := range []string{"runc", "nanoclaw"} {
		var stdout bytes.Buffer
		cmd := exec.Command("docker", append([]string{"run", "--rm", "--runtime", runtime}, os.Args[2:]...)...)
		cmd.Stdout, cmd.Stderr = &stdout, os.Stderr
		if got, want := code(cmd.Run()), number(os.Args[1]); got != want {
			fail("%s: exit code %d, want %d; stdout: %s", runtime, got, want, stdout.String())
		}
		stdouts[runtime] = stdout.String()
	}
	if stdouts["runc"] != stdouts["nanoclaw"] {
		fail("runc wrote %q, nanoclaw %q", stdouts["runc"], stdouts["nanoclaw"])
	}
	fmt.Print(stdouts["nanoclaw"])
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
