package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nanoclaw/nanoclaw/test/internal/remains"
)

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
	left, err := remains.Wait(func() ([]string, error) { return remains.New(enter).Of(containers...) })
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Fatal("left on the host:\n" + strings.Join(left, "\n"))
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
