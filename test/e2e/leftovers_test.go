package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// patience is how long a VM's traces may outlive "docker rm".
const patience = 15 * time.Second

// remove removes the script's containers, and the networks and volumes that carry
// its name.
const remove = `
docker ps -aq --no-trunc --filter label=e2e="$1" | xargs -r docker rm -fv >/dev/null
docker network ls -q --filter name="$1" | xargs -r docker network rm >/dev/null
docker volume ls -q --filter name="$1" | xargs -r docker volume rm -f >/dev/null`

// finish removes the script's containers and fails the script if it was to make
// one in a VM and made none, or if any left something on the host.
func finish(t testscript.T, enter, label, ids string, vm bool) {
	out, err := exec.Command(enter, "sh", "-c", remove, "sh", label).CombinedOutput()
	if err != nil {
		t.Log(fmt.Sprintf("remove the script's containers: %v: %s", err, out))
	}
	containers, vms, err := readIDs(ids)
	if err != nil {
		t.Fatal(err)
	}
	if vm && vms == 0 {
		t.Fatal("no VM: the script made no container with the runtime nanoclaw")
	}
	var left []string
	for limit := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		if left, err = leftovers(containers); err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(limit) {
			t.Fatal("left on the host:\n" + strings.Join(left, "\n"))
		}
	}
}

func readIDs(dir string) (containers []string, vms int, err error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, 0, err
	}
	for _, file := range files {
		data, err := os.ReadFile(filepath.Join(dir, file.Name()))
		if err != nil {
			return nil, 0, err
		}
		containers = append(containers, strings.Fields(string(data))...)
		if strings.HasPrefix(file.Name(), "vm-") {
			vms++
		}
	}
	return containers, vms, nil
}

// leftovers lists what the host still has of containers: processes, mounts, run
// directories, bundles, cgroups.
func leftovers(containers []string) ([]string, error) {
	name := os.Getenv("NANOCLAW_ENGINE")
	if name == "" {
		name = "nanoclaw-engine"
	}
	data, err := os.ReadFile(filepath.Join("/run", name, "pid"))
	if err != nil {
		return nil, fmt.Errorf("find the engine: %w", err)
	}
	pid := strings.Fields(string(data))[0]
	root := filepath.Join("/proc", pid, "root")

	var marks []string
	var left []string
	for _, id := range containers {
		sum := sha256.Sum256([]byte("moby/" + id))
		short := hex.EncodeToString(sum[:8])
		marks = append(marks, id, short)
		for _, path := range []string{"/run/nanoclaw/" + short, "/run/containerd/io.containerd.runtime.v2.task/moby/" + id} {
			if _, err := os.Lstat(root + path); err == nil {
				left = append(left, "folder "+path)
			}
		}
	}
	has := func(s string) bool {
		for _, mark := range marks {
			if strings.Contains(s, mark) {
				return true
			}
		}
		return false
	}

	cmdlines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	for _, file := range cmdlines {
		// A process that ended meanwhile has left nothing.
		if data, err := os.ReadFile(file); err == nil && has(string(data)) {
			left = append(left, fmt.Sprintf("process %s: %.200s", filepath.Dir(file), strings.ReplaceAll(string(data), "\x00", " ")))
		}
	}
	mounts, err := os.ReadFile(filepath.Join("/proc", pid, "mountinfo"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		if has(line) {
			left = append(left, "mount "+line)
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		// Cgroups of others come and go while this looks.
		if err == nil && d.IsDir() && has(d.Name()) {
			left = append(left, "cgroup "+path)
		}
		return nil
	})
	return left, nil
}
