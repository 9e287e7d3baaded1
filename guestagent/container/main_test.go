package container

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// insideVar tells a test process that it is PID 1 of namespaces made for it,
// and which crun to use.
const insideVar = "NANOCLAW_TEST_CRUN_INSIDE"

// TestMain runs the tests once more as PID 1 of fresh namespaces, with a
// cgroup2 hierarchy of their own, where crun can be tried for real.
func TestMain(m *testing.M) {
	if os.Getenv(insideVar) != "" {
		if err := prepareInside(); err != nil {
			fmt.Fprintln(os.Stderr, "prepare:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	code, why := runInside()
	if why != "" {
		fmt.Fprintln(os.Stderr, "without crun:", why)
		code = m.Run()
	}
	os.Exit(code)
}

func findCrun() string {
	if path := os.Getenv("NANOCLAW_TEST_CRUN"); path != "" {
		return path
	}
	path, err := exec.LookPath("crun")
	if err != nil {
		return ""
	}
	return path
}

// recent reports whether crun is 1.20 or later.
func recent(crun string) bool {
	out, err := exec.Command(crun, "--version").Output()
	var minor int
	if err == nil {
		_, err = fmt.Sscanf(string(out), "crun version 1.%d", &minor)
	}
	return err == nil && minor >= 20
}

// runInside returns why it could not.
func runInside() (code int, why string) {
	crun := findCrun()
	switch {
	case crun == "":
		return 0, "it is not installed (NANOCLAW_TEST_CRUN names it elsewhere)"
	case os.Getuid() != 0:
		return 0, "it needs root"
	case !recent(crun):
		return 0, crun + " is older than the guest's and has other words for its errors"
	}
	hierarchy, own, err := cgroup2()
	if err != nil {
		return 0, err.Error()
	}
	group := filepath.Join(hierarchy, own, fmt.Sprintf("nanoclaw-test-%d", os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil {
		return 0, err.Error()
	}
	defer removeGroups(group)
	// A cgroup namespace begins where its maker is.
	if err := os.WriteFile(group+"/cgroup.procs", []byte("0"), 0); err != nil {
		return 0, err.Error()
	}
	leave := func() { _ = os.WriteFile(filepath.Join(hierarchy, own, "cgroup.procs"), []byte("0"), 0) }
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVar+"="+crun)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWCGROUP,
		Pdeathsig:  unix.SIGKILL,
	}
	err = cmd.Start()
	// A group with processes has no controllers to give to those within it.
	leave()
	if err != nil {
		return 0, err.Error()
	}
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode(), ""
}

func cgroup2() (mount, own string, err error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			mount = f[1]
		}
	}
	if mount == "" {
		return "", "", fmt.Errorf("no cgroup2 hierarchy is mounted")
	}
	groups, err := os.Open("/proc/self/cgroup")
	if err != nil {
		return "", "", err
	}
	defer func() { _ = groups.Close() }()
	for s := bufio.NewScanner(groups); s.Scan(); {
		if path, ok := strings.CutPrefix(s.Text(), "0::"); ok {
			return mount, path, nil
		}
	}
	return "", "", fmt.Errorf("this process is in no cgroup2 group")
}

func removeGroups(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			removeGroups(filepath.Join(dir, e.Name()))
		}
	}
	_ = unix.Rmdir(dir)
}

func prepareInside() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	for _, m := range [][2]string{{"proc", "/proc"}, {"tmpfs", "/run"}, {"cgroup2", "/sys/fs/cgroup"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	return nil
}
