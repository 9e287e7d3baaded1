package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// hung is how long one command of a compared script may take; E2E_PATIENCE is a
// longer time, for those that do something many times.
func hung() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("E2E_PATIENCE")); err == nil {
		return d
	}
	return time.Duration(slow()) * 3 * time.Minute
}

// recorded reports whether the outcome of this command is to be compared: the
// script itself has called it, and not a shell or a repetition.
func recorded() bool {
	return os.Getenv(envTranscript) != "" &&
		(os.Getenv(envRecord) != "" || strconv.Itoa(os.Getppid()) == os.Getenv(envTest))
}

// record runs a command and adds its outcome to the transcript. It does not
// return.
func record(command string, args, shown []string) {
	// The command's death with this process is tied to the thread.
	runtime.LockOSThread()
	ctx, cancel := context.WithTimeout(context.Background(), hung())
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.Env = withoutRecord()
	cmd.Stdin = os.Stdin
	cmd.Stdout, cmd.Stderr = io.MultiWriter(os.Stdout, &stdout), io.MultiWriter(os.Stderr, &stderr)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// A background process may hold the pipes.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		fail("it has not ended within %s", hung())
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	o := outcome{
		Args: shown, Code: code(err), Stdout: normal(stdout.String()), Stderr: normal(stderr.String()),
		Differs: os.Getenv(envDiffers), Varies: os.Getenv(envVaries),
	}
	line, err := json.Marshal(o)
	if err != nil {
		fail("%v", err)
	}
	f, err := os.OpenFile(os.Getenv(envTranscript), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		fail("%v", err)
	}
	_, err = f.Write(append(line, '\n'))
	if err := errors.Join(err, f.Close()); err != nil {
		fail("%v", err)
	}
	if o.Differs != "" {
		// Failing may be the difference.
		os.Exit(0)
	}
	os.Exit(o.Code)
}

func withoutRecord() []string {
	var env []string
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); name != envRecord && name != envDiffers && name != envVaries {
			env = append(env, v)
		}
	}
	return env
}

// normals are what is another in every run and means nothing.
var normals = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "ID"},
	{regexp.MustCompile(`\b[0-9a-f]{12}\b`), "ID"},
	{regexp.MustCompile(`\b(crun|runc)\b`), "RUNTIME"},
	{regexp.MustCompile(`\b20\d\d-\d\d-\d\dT[0-9:.]+Z`), "TIME"},
	{regexp.MustCompile(`\b172\.\d+\.\d+\.\d+\b`), "ADDRESS"},
	{regexp.MustCompile(`\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b`), "MAC"},
}

// normal is a text without what is another in every run.
func normal(s string) string {
	s = strings.ReplaceAll(s, os.Getenv("N"), "NAME")
	s = strings.ReplaceAll(s, os.Getenv("WORK"), "WORK")
	for _, n := range normals {
		s = n.pattern.ReplaceAllString(s, n.instead)
	}
	return s
}

// differs REASON COMMAND… runs a command whose outcome is another with another
// runtime, and rightly so. It may fail.
func differs() { declared(envDiffers) }

// varies REASON COMMAND… runs a command whose outcome is another every time.
func varies() { declared(envVaries) }

func declared(variable string) {
	if len(os.Args) < 3 {
		fail("usage: REASON COMMAND…")
	}
	path, err := exec.LookPath(os.Args[2])
	if err != nil {
		fail("%v", err)
	}
	err = syscall.Exec(path, os.Args[2:], append(os.Environ(), envRecord+"=1", fmt.Sprintf("%s=%s", variable, os.Args[1])))
	fail("run %s: %v", path, err)
}
