// Package program finds the programs of a VM on the host.
package program

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// Where distributions keep programs that are not in PATH. The virtiofsd that
// belongs to QEMU below version 8, in /usr/lib/qemu, is a different program and
// is not among them.
var (
	Virtiofsd        = []string{"/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/bin/virtiofsd", "/usr/local/bin/virtiofsd"}
	VhostDeviceVsock = []string{"/usr/libexec/vhost-device-vsock", "/usr/lib/vhost-device-vsock"}
)

// Find returns the path of a program. A name with a slash is that file and no
// other; another is looked up in PATH, then among the known places of a program
// of that name. file is the configuration that can name another, for the error.
func Find(name, file string, known ...string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	if strings.ContainsRune(name, '/') {
		return "", fmt.Errorf("%s was not found, or cannot be run; install it, or name another in %s", name, file)
	}
	where := "PATH"
	for _, place := range known {
		if filepath.Base(place) != name {
			continue
		}
		if path, err := exec.LookPath(place); err == nil {
			return path, nil
		}
		where += ", " + filepath.Dir(place)
	}
	return "", fmt.Errorf("%s was not found in %s; install it, or name it in %s", name, where, file)
}
