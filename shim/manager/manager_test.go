package manager

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/nanoclaw/nanoclaw/internal/testns"
	"github.com/nanoclaw/nanoclaw/shim/audit"
	"github.com/nanoclaw/nanoclaw/shim/config"
)

// asShim makes the test binary the shim's.
const asShim = "NANOCLAW_MANAGER_TEST_SHIM"

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(childEnv) != "":
		serveOnce()
		return
	case os.Getenv(asShim) != "":
		shim.Run(context.Background(), Manager{})
		return
	case os.Getuid() == 0:
		testns.Main(m)
	}
	os.Exit(m.Run())
}

// serveOnce is the serving shim of these tests: it tells the first who connects
// how it was started, and ends.
func serveOnce() {
	if err := Detach(); err != nil {
		fmt.Println(err)
	}
	l, err := net.FileListener(os.NewFile(3, "socket"))
	if err != nil {
		return
	}
	_ = l.(*net.UnixListener).SetDeadline(time.Now().Add(10 * time.Second))
	conn, err := l.Accept()
	if err != nil {
		return
	}
	ns, _ := os.Readlink("/proc/self/ns/mnt")
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	shared := "private"
	if bytes.Contains(mounts, []byte(" shared:")) {
		shared = "shared"
	}
	_, _ = fmt.Fprintln(conn, ns, shared, strings.Join(os.Args[1:], " "))
	_ = conn.Close()
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can make mount namespaces, and use containerd's folder")
	}
}

// run runs the shim's binary as containerd does, in a bundle.
func run(t *testing.T, bundle string, options []byte, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, append([]string{"-namespace", "moby", "-id", "c1", "-address", "/run/nanoclaw-manager-test"}, args...)...)
	cmd.Env = append(os.Environ(), asShim+"=1")
	cmd.Dir = bundle
	cmd.Stdin = bytes.NewReader(options)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

func options(t *testing.T, v any) []byte {
	t.Helper()
	a, err := typeurl.MarshalAnyToProto(v)
	if err != nil {
		t.Fatal(err)
	}
	data, err := proto.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// newBundle is a bundle of the container c1.
func newBundle(t *testing.T) string {
	t.Helper()
	bundle := filepath.Join(t.TempDir(), "c1")
	for _, err := range []error{
		os.Mkdir(bundle, 0o700),
		os.WriteFile(filepath.Join(bundle, "config.json"), []byte(`{"linux":{},"root":{"path":"rootfs"},"process":{}}`), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return bundle
}

// hashOf is how package sandbox names the run directory of a container.
func hashOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:8])
}

// started starts a shim and returns its address.
func started(t *testing.T, bundle string, stdin []byte) string {
	t.Helper()
	stdout, stderr, err := run(t, bundle, stdin, "start")
	if err != nil || stderr != "" {
		t.Fatalf("start: %v, %q", err, stderr)
	}
	var reply map[string]any
	if err := json.Unmarshal([]byte(stdout), &reply); err != nil {
		t.Fatalf("start wrote %q: %v", stdout, err)
	}
	address, _ := reply["address"].(string)
	// What every containerd understands, and nothing more.
	if reply["version"] != 2.0 || reply["protocol"] != "ttrpc" || !strings.HasPrefix(address, "unix:///") {
		t.Fatalf("start wrote %q", stdout)
	}
	t.Cleanup(func() {
		// Whoever still serves there ends with it.
		if conn, err := net.Dial("unix", strings.TrimPrefix(address, "unix://")); err == nil {
			_ = conn.Close()
		}
		_ = shim.RemoveSocket(address)
	})
	return address
}

func TestStart(t *testing.T) {
	needRoot(t)
	bundle := newBundle(t)
	address := started(t, bundle, options(t, &runtimeoptions.Options{ConfigPath: "/etc/other.yaml"}))
	conn, err := net.Dial("unix", strings.TrimPrefix(address, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	said, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	ns, rest, _ := strings.Cut(strings.TrimSpace(string(said)), " ")
	if ns == own || ns == "" {
		t.Errorf("the shim serves in our mount namespace: %q", said)
	}
	if want := "private -namespace moby -id c1 -address /run/nanoclaw-manager-test"; rest != want {
		t.Errorf("the shim was started with %q, want %q", rest, want)
	}
	if path, err := os.ReadFile(filepath.Join(bundle, configFile)); err != nil || string(path) != "/etc/other.yaml" {
		t.Errorf("the bundle says that the configuration is %q, %v", path, err)
	}
}

// containerd's options may be of any kind, or none at all; Create judges them.
func TestStartReadsOptionsLeniently(t *testing.T) {
	needRoot(t)
	for name, stdin := range map[string][]byte{
		"none": nil, "no message": []byte("\xff\xff"), "of another kind": options(t, &taskapi.StateRequest{}),
		"without a path": options(t, &runtimeoptions.Options{}),
	} {
		bundle := newBundle(t)
		started(t, bundle, stdin)
		if _, err := os.Stat(filepath.Join(bundle, configFile)); !os.IsNotExist(err) {
			t.Errorf("%s: a configuration was noted: %v", name, err)
		}
	}
}

// A shim that was killed has left its socket.
func TestStartAfterACrash(t *testing.T) {
	needRoot(t)
	bundle := newBundle(t)
	first := started(t, bundle, nil)
	if second := started(t, bundle, nil); second != first {
		t.Fatalf("the addresses %s and %s are of one container", first, second)
	}
}

func TestStartFails(t *testing.T) {
	if _, err := (Manager{}).Start(t.Context(), "c1", shim.StartOpts{}); err == nil {
		t.Error("it started without a namespace")
	}
	needRoot(t)
	bundle := newBundle(t)
	// Nothing can be written here.
	if err := os.Mkdir(filepath.Join(bundle, socketFile), 0o700); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, err := run(t, bundle, nil, "start")
	if err == nil || stdout != "" || !strings.Contains(stderr, socketFile) || strings.Contains(stderr, "is a directory") {
		t.Fatalf("start: %v, %q, %q", err, stdout, stderr)
	}
	address, err := shim.SocketAddress(namespaces.WithNamespace(t.Context(), "moby"), "/run/nanoclaw-manager-test", "c1", false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(strings.TrimPrefix(address, "unix://")); !os.IsNotExist(err) {
		t.Errorf("its socket is left: %v", err)
	}
}

// deleted runs "delete" and checks what containerd reads.
func deleted(t *testing.T, bundle string) {
	t.Helper()
	began := time.Now()
	stdout, stderr, err := run(t, bundle, nil, "delete")
	if err != nil {
		t.Fatalf("delete: %v, %q", err, stderr)
	}
	var reply taskapi.DeleteResponse
	if err := proto.Unmarshal([]byte(stdout), &reply); err != nil || reply.GetExitStatus() != 137 || reply.GetExitedAt().AsTime().Before(began.Add(-time.Second)) {
		t.Fatalf("delete wrote %v, %v", &reply, err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Fatalf("delete took %s; containerd waits for five seconds", took)
	}
}

// After a crash "delete" removes everything, and can be run again.
func TestDeleteAfterACrash(t *testing.T) {
	needRoot(t)
	bundle, base := newBundle(t), t.TempDir()
	log := filepath.Join(t.TempDir(), "log")
	file := filepath.Join(t.TempDir(), "config.yaml")
	// The run directory of the configuration is another by now.
	if err := os.WriteFile(file, []byte("run_dir: /run/elsewhere\naudit:\n  dir: "+log+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := started(t, bundle, options(t, &runtimeoptions.Options{ConfigPath: file}))
	rundir := filepath.Join(base, hashOf("moby/c1"))
	rootfs := filepath.Join(bundle, "rootfs")
	for _, err := range []error{
		os.WriteFile(filepath.Join(bundle, "nanoclaw-run-dir"), []byte(base), 0o600),
		os.MkdirAll(filepath.Join(rundir, "share"), 0o700),
		os.WriteFile(filepath.Join(rundir, "vm.json"), []byte(`{"id":"c1","agent":"sales"}`), 0o600),
		os.Mkdir(rootfs, 0o700),
		unix.Mount("tmpfs", rootfs, "tmpfs", 0, ""),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		deleted(t, bundle)
	}
	if left, err := os.ReadDir(base); err != nil || len(left) != 0 {
		t.Errorf("%v, %v are left", left, err)
	}
	if _, err := os.Stat(strings.TrimPrefix(address, "unix://")); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || bytes.Contains(mounts, []byte(rootfs)) {
		t.Errorf("the root file system is mounted still (%v)", err)
	}
	ends := 0
	if err := audit.Each(log, func(r *audit.Record) error {
		if r.Container == "c1" && r.Object != nil && r.Object.Action == "shim-died" {
			ends++
		}
		return nil
	}); err != nil || ends != 1 {
		t.Errorf("the end was recorded %d times (%v)", ends, err)
	}
}

// A container that was never created, or whose configuration was broken since.
func TestDeleteOfNothing(t *testing.T) {
	needRoot(t)
	bundle := newBundle(t)
	deleted(t, bundle)
	if err := os.WriteFile(filepath.Join(bundle, configFile), []byte("/absent.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	deleted(t, bundle)
	if got := auditConfig(t.Context(), bundle); got != config.Default().Audit {
		t.Errorf("the audit log of a broken configuration is %+v", got)
	}
	if _, err := (Manager{}).Stop(t.Context(), "c1"); err == nil {
		t.Error("it was deleted without a namespace")
	}
}

// What cannot be removed is said, so that containerd tries again.
func TestDeleteFails(t *testing.T) {
	needRoot(t)
	bundle, base := newBundle(t), t.TempDir()
	rundir := filepath.Join(base, hashOf("moby/c1"))
	for _, err := range []error{
		os.WriteFile(filepath.Join(bundle, "nanoclaw-run-dir"), []byte(base), 0o600),
		os.Mkdir(rundir, 0o700),
		os.WriteFile(filepath.Join(rundir, "vm.json"), []byte("{"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	stdout, stderr, err := run(t, bundle, nil, "delete")
	if err == nil || stdout != "" || !strings.Contains(stderr, rundir) {
		t.Fatalf("delete: %v, %q, %q", err, stdout, stderr)
	}
}

func TestInfo(t *testing.T) {
	info, err := (Manager{}).Info(t.Context(), nil)
	if err != nil || info.GetName() != "io.containerd.nanoclaw.v2" || info.GetVersion().GetVersion() == "" {
		t.Fatalf("%v, %v", info, err)
	}
	needRoot(t)
	stdout, stderr, err := run(t, newBundle(t), nil, "-info")
	if err != nil || stderr != "" {
		t.Fatalf("-info: %v, %q", err, stderr)
	}
	var told types.RuntimeInfo
	if err := proto.Unmarshal([]byte(stdout), &told); err != nil || told.GetName() != info.GetName() {
		t.Fatalf("-info wrote %v, %v", &told, err)
	}
}

// A shim that goes on for another container keeps its socket, a dead one does not.
func TestRemoveSocket(t *testing.T) {
	bundle := t.TempDir()
	if err := removeSocket(bundle); err != nil {
		t.Errorf("of a container that joined: %v", err)
	}
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(filepath.Join(bundle, socketFile), []byte("unix://"+path), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := removeSocket(bundle); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the socket of a shim that serves was removed: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := removeSocket(bundle); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket of a dead shim is left: %v", err)
	}
}
