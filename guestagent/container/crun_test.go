package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	runc "github.com/containerd/go-runc"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/api/stream"
	"github.com/nanoclaw/nanoclaw/guestagent/cgroup"
	"github.com/nanoclaw/nanoclaw/guestagent/netconf"
	"github.com/nanoclaw/nanoclaw/guestagent/reaper"
	"github.com/nanoclaw/nanoclaw/guestagent/runtime"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// hostEnds plays the host: it opens each stream when it is asked for.
type hostEnds struct {
	mu    sync.Mutex
	conns map[string]net.Conn
}

func (h *hostEnds) Take(_ context.Context, _ stream.Kind, id string) (net.Conn, error) {
	guest, host, err := socketPair()
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns[id] = host
	return guest, nil
}

func (h *hostEnds) conn(id string) net.Conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conns[id]
}

// read returns all of an output stream and acknowledges its end.
func (h *hostEnds) read(id string) (string, error) {
	c := h.conn(id)
	out, err := io.ReadAll(stream.NewReader(c))
	return string(out), errors.Join(err, c.Close())
}

func socketPair() (net.Conn, net.Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if conns[i], err = net.FileConn(f); err != nil {
			return nil, nil, err
		}
		_ = f.Close()
	}
	return conns[0], conns[1], nil
}

type guest struct {
	*Manager
	host *hostEnds
}

type noDNS struct{}

func (noDNS) Serve(net.PacketConn, net.Listener) {}

var newGuest = sync.OnceValues(func() (*guest, error) {
	const dir = "/run/nanoclaw"
	for _, d := range []string{dir + "/pty", agent.ShareDir + "/rootfs", agent.ShareDir + "/data"} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	if err := unix.Mount("/", agent.ShareDir+"/rootfs", "", unix.MS_BIND, ""); err != nil {
		return nil, err
	}
	if err := cgroup.Setup(); err != nil {
		return nil, fmt.Errorf("cgroups: %w", err)
	}
	r := reaper.New()
	go r.Run(context.Background())
	runc.Monitor = r.Commands()
	sandbox, err := netconf.New("/run/netns/sandbox", noDNS{})
	if err != nil {
		return nil, err
	}
	host := &hostEnds{conns: make(map[string]net.Conn)}
	return &guest{host: host, Manager: NewManager(Config{
		Runtime:          runtime.New(runtime.Config{Command: os.Getenv(insideVar), Root: dir + "/crun"}),
		Streams:          host,
		Reaper:           r,
		Dir:              dir + "/containers",
		TerminalDir:      dir + "/pty",
		Share:            agent.ShareDir,
		NetworkNamespace: sandbox.Path(),
		LoadGate:         lateGates,
	})}, nil
})

func setup(t *testing.T) *guest {
	t.Helper()
	if os.Getenv(insideVar) == "" {
		t.Skip("needs crun, root and a cgroup2 hierarchy")
	}
	g, err := newGuest()
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func programOf(args ...string) *specs.Process {
	return &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/usr/bin:/bin", "TERM=xterm"}}
}

func testSpec(args ...string) *specs.Spec {
	return &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs", Readonly: true},
		Process: programOf(args...),
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666"}},
			{Destination: "/mnt", Type: "bind", Source: agent.ShareDir + "/data", Options: []string{"rbind"}},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace, Path: "/proc/1/ns/net"},
		}},
	}
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

var serial int

// begin creates a container, without starting it, and has it removed in the end.
func (g *guest) begin(t *testing.T, spec *specs.Spec, io *agent.Stdio) *Container {
	t.Helper()
	return g.beginWith(t, &agent.CreateRequest{Spec: marshal(t, spec), Stdio: io})
}

// beginWith is begin with a request that lacks an id.
func (g *guest) beginWith(t *testing.T, req *agent.CreateRequest) *Container {
	t.Helper()
	serial++
	id := fmt.Sprintf("c%d", serial)
	req.Container = id
	pid, err := g.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if pid <= 1 {
		t.Fatalf("Create returned PID %d", pid)
	}
	c, err := g.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Kill("", uint32(unix.SIGKILL), true)
		if _, err := c.Wait(context.Background(), ""); err != nil {
			t.Error(err)
		}
		if err := g.Delete(context.Background(), id); err != nil {
			t.Error(err)
		}
		for _, left := range []string{"/run/nanoclaw/containers/" + id, "/run/nanoclaw/crun/" + id, cgroup.Root + "/containers/" + id} {
			if _, err := os.Stat(left); err == nil {
				t.Errorf("%s is left", left)
			}
		}
	})
	return c
}

func (g *guest) started(t *testing.T, spec *specs.Spec, io *agent.Stdio) *Container {
	t.Helper()
	return g.startedWith(t, &agent.CreateRequest{Spec: marshal(t, spec), Stdio: io})
}

func (g *guest) startedWith(t *testing.T, req *agent.CreateRequest) *Container {
	t.Helper()
	c := g.beginWith(t, req)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRunCarriesOutputAndStatus(t *testing.T) {
	g := setup(t)
	c := g.started(t, testSpec("sh", "-c", "echo out; echo err >&2; exit 42"), &agent.Stdio{Stdout: "a1", Stderr: "a2"})
	out, err := g.host.read("a1")
	if err != nil || out != "out\n" {
		t.Errorf("stdout is %q, %v", out, err)
	}
	out, err = g.host.read("a2")
	if err != nil || out != "err\n" {
		t.Errorf("stderr is %q, %v", out, err)
	}
	r, err := c.Wait(t.Context(), "")
	if err != nil || r.Status != 42 || r.Stdout != 4 || r.Stderr != 4 || r.OOM {
		t.Errorf("Wait = %+v, %v", r, err)
	}
}

func TestBurstBeforeExitArrivesWhole(t *testing.T) {
	g := setup(t)
	const size = 8 << 20
	for i := range 10 {
		id := fmt.Sprintf("b%d", i)
		c := g.started(t, testSpec("head", "-c", fmt.Sprint(size), "/dev/zero"), &agent.Stdio{Stdout: id})
		out, err := g.host.read(id)
		if err != nil || len(out) != size {
			t.Fatalf("run %d: %d bytes, %v", i, len(out), err)
		}
		if r, err := c.Wait(t.Context(), ""); err != nil || r.Stdout != size {
			t.Fatalf("run %d: Wait = %+v, %v", i, r, err)
		}
	}
}

func TestStdinComesBackWholeThenEOF(t *testing.T) {
	g := setup(t)
	c := g.started(t, testSpec("cat"), &agent.Stdio{Stdin: "c0", Stdout: "c1"})
	want := bytes.Repeat([]byte("0123456789abcdef"), 8<<20/16)
	go func() {
		w := stream.NewWriter(g.host.conn("c0"))
		_, _ = w.Write(want)
		_ = w.CloseStream(10 * time.Second)
	}()
	out, err := g.host.read("c1")
	if err != nil || out != string(want) {
		t.Errorf("%d bytes came back, %v", len(out), err)
	}
	if r, err := c.Wait(t.Context(), ""); err != nil || r.Status != 0 {
		t.Errorf("Wait = %+v, %v", r, err)
	}
}

func TestClosedStdoutEndsOnlyThatStream(t *testing.T) {
	g := setup(t)
	c := g.started(t, testSpec("sh", "-c", "exec >&-; sleep 0.3; echo alive >&2; exit 7"), &agent.Stdio{Stdout: "d1", Stderr: "d2"})
	if out, err := g.host.read("d1"); err != nil || out != "" {
		t.Errorf("stdout is %q, %v", out, err)
	}
	if out, err := g.host.read("d2"); err != nil || out != "alive\n" {
		t.Errorf("stderr is %q, %v", out, err)
	}
	if r, err := c.Wait(t.Context(), ""); err != nil || r.Status != 7 {
		t.Errorf("Wait = %+v, %v", r, err)
	}
}

func TestTerminal(t *testing.T) {
	g := setup(t)
	c := g.started(t, testSpec("sh", "-c", "read line; stty size; echo got $line"), &agent.Stdio{Stdin: "e0", Stdout: "e1", Terminal: true})
	if err := c.Resize("", 101, 42); err != nil {
		t.Fatal(err)
	}
	w := stream.NewWriter(g.host.conn("e0"))
	if _, err := w.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	out, err := g.host.read("e1")
	if err != nil || !strings.Contains(out, "42 101") || !strings.Contains(out, "got hello\r\n") {
		t.Errorf("the terminal shows %q, %v", out, err)
	}
	if r, err := c.Wait(t.Context(), ""); err != nil || r.Status != 0 || r.Stdout != uint64(len(out)) {
		t.Errorf("Wait = %+v, %v; %d bytes", r, err, len(out))
	}
}

func TestMissingProgramIsToldInDockersWords(t *testing.T) {
	g := setup(t)
	c := g.started(t, testSpec("sleep", "1000"), nil)
	for _, test := range []struct{ program, phrase string }{
		{"nothere", "executable file not found in $PATH"},
		{"/nothere", "no such file or directory"},
		{"/etc", "is a directory"},
		{"/etc/passwd", "permission denied"},
		{"/etc/passwd/x", "not a directory"},
	} {
		_, err := g.Create(t.Context(), &agent.CreateRequest{Container: "bad", Spec: marshal(t, testSpec(test.program))})
		if err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(test.phrase)) {
			t.Errorf("Create of %s: %v", test.program, err)
		}
		if _, err := g.Get("bad"); !errdefs.IsNotFound(err) {
			t.Errorf("a failed Create leaves the container: %v", err)
		}
		if left, _ := filepath.Glob("/run/nanoclaw/*/bad"); len(left) > 0 {
			t.Errorf("a failed Create leaves %s", left)
		}
		_, err = c.Exec(t.Context(), &agent.ExecRequest{Exec: "bad", Process: marshal(t, programOf(test.program))})
		if err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(test.phrase)) {
			t.Errorf("Exec of %s: %v", test.program, err)
		}
	}
}

func TestExec(t *testing.T) {
	g := setup(t)
	c := g.started(t, testSpec("sleep", "1000"), nil)
	for i := range 20 {
		id, out := fmt.Sprintf("x%d", i), fmt.Sprintf("f%d", i)
		if _, err := c.Exec(t.Context(), &agent.ExecRequest{
			Exec: id, Process: marshal(t, programOf("sh", "-c", "echo hi; exit 3")), Stdio: &agent.Stdio{Stdout: out},
		}); err != nil {
			t.Fatal(err)
		}
		if got, err := g.host.read(out); err != nil || got != "hi\n" {
			t.Errorf("stdout is %q, %v", got, err)
		}
		if r, err := c.Wait(t.Context(), id); err != nil || r.Status != 3 || r.Stdout != 3 {
			t.Errorf("Wait = %+v, %v", r, err)
		}
		if _, err := c.Wait(t.Context(), id); !errdefs.IsNotFound(err) {
			t.Errorf("Wait of a forgotten exec = %v", err)
		}
	}
}

func TestExecWithTerminalAndManyAtOnce(t *testing.T) {
	g := setup(t)
	c := g.started(t, testSpec("sleep", "1000"), nil)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			id, out := fmt.Sprintf("t%d", i), fmt.Sprintf("a0%d", i)
			if _, err := c.Exec(t.Context(), &agent.ExecRequest{
				Exec: id, Process: marshal(t, programOf("sh", "-c", "tty; exit 9")), Stdio: &agent.Stdio{Stdout: out, Terminal: true},
			}); err != nil {
				t.Error(err)
				return
			}
			if got, err := g.host.read(out); err != nil || !strings.HasPrefix(got, "/dev/") {
				t.Errorf("the terminal shows %q, %v", got, err)
			}
			if r, err := c.Wait(t.Context(), id); err != nil || r.Status != 9 {
				t.Errorf("Wait = %+v, %v", r, err)
			}
		})
	}
	wg.Wait()
}

func TestOutputOfADescendantOutlivesTheExec(t *testing.T) {
	g := setup(t)
	c := g.started(t, testSpec("sleep", "1000"), nil)
	if _, err := c.Exec(t.Context(), &agent.ExecRequest{
		Exec: "x", Process: marshal(t, programOf("sh", "-c", "echo now; (sleep 0.5; echo later) & exit 0")), Stdio: &agent.Stdio{Stdout: "aa1"},
	}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r, err := c.Wait(t.Context(), "x")
	if err != nil || r.Stdout != 4 || time.Since(began) > 400*time.Millisecond {
		t.Errorf("Wait = %+v, %v after %s", r, err, time.Since(began))
	}
	if out, err := g.host.read("aa1"); err != nil || out != "now\nlater\n" {
		t.Errorf("stdout is %q, %v", out, err)
	}
}

func TestKill(t *testing.T) {
	g := setup(t)
	c := g.started(t, testSpec("sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.05; done"), nil)
	if _, err := c.Exec(t.Context(), &agent.ExecRequest{Exec: "x", Process: marshal(t, programOf("sleep", "1000"))}); err != nil {
		t.Fatal(err)
	}
	list, _, err := c.Processes()
	if err != nil || len(list) < 2 || list[0].GetPid() != 1 {
		t.Errorf("Processes = %v, %v", list, err)
	}
	if err := c.Kill("x", uint32(unix.SIGKILL), false); err != nil {
		t.Error(err)
	}
	if r, err := c.Wait(t.Context(), "x"); err != nil || r.Status != 137 {
		t.Errorf("Wait of the exec = %+v, %v", r, err)
	}
	time.Sleep(100 * time.Millisecond)
	if err := c.Kill("", uint32(unix.SIGTERM), false); err != nil {
		t.Error(err)
	}
	if r, err := c.Wait(t.Context(), ""); err != nil || r.Status != 5 {
		t.Errorf("Wait = %+v, %v", r, err)
	}
	for _, all := range []bool{false, true} {
		if err := c.Kill("", uint32(unix.SIGTERM), all); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "process already finished") {
			t.Errorf("Kill of a stopped container, all=%t: %v", all, err)
		}
	}
}

func TestNeverStarted(t *testing.T) {
	g := setup(t)
	c := g.begin(t, testSpec("true"), nil)
	if _, err := c.Exec(t.Context(), &agent.ExecRequest{Exec: "x", Process: marshal(t, programOf("true"))}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Exec in a container that is not started = %v", err)
	}
	if err := c.Kill("", uint32(unix.SIGKILL), false); err != nil {
		t.Error(err)
	}
	if r, err := c.Wait(t.Context(), ""); err != nil || r.Status != 137 {
		t.Errorf("Wait = %+v, %v", r, err)
	}
	if err := c.Start(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Start of a stopped container = %v", err)
	}
}

func TestPause(t *testing.T) {
	g := setup(t)
	c := g.started(t, testSpec("sh", "-c", "while :; do echo x; sleep 0.02; done"), &agent.Stdio{Stdout: "ab1"})
	if err := c.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), &agent.ExecRequest{Exec: "x", Process: marshal(t, programOf("true"))}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Exec in a paused container = %v", err)
	}
	frozen, err := os.ReadFile(cgroup.Root + c.group.Path() + "/cgroup.events")
	if err != nil || !strings.Contains(string(frozen), "frozen 1") {
		t.Errorf("cgroup.events = %q, %v", frozen, err)
	}
	if err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Kill("", uint32(unix.SIGKILL), false); err != nil {
		t.Error(err)
	}
	if r, err := c.Wait(t.Context(), ""); err != nil || r.Status != 137 {
		t.Errorf("Wait of a container that was killed while paused = %+v, %v", r, err)
	}
}

func TestLinkInTheShareIsNoSource(t *testing.T) {
	g := setup(t)
	if err := os.Symlink("/etc", agent.ShareDir+"/link"); err != nil {
		t.Fatal(err)
	}
	spec := testSpec("true")
	spec.Mounts[3].Source = agent.ShareDir + "/link"
	_, err := g.Create(t.Context(), &agent.CreateRequest{Container: "linked", Spec: marshal(t, spec)})
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Create = %v", err)
	}
}

func TestStat(t *testing.T) {
	g := setup(t)
	c := g.started(t, testSpec("sleep", "1000"), nil)
	m, err := c.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if m.GetCPU() == nil {
		t.Error("no CPU figures")
	}
}
