// Package program finds the programs of a VM on the host.
package program

import (
	"fmt"
	"os/exec"
)

// Where distributions keep programs that are not in PATH. The virtiofsd that
// belongs to QEMU below version 8, in /usr/lib/qemu, is a different program and
// is not among them.
var (
	Virtiofsd        = []string{"/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/bin/virtiofsd", "/usr/local/bin/virtiofsd"}
	VhostDeviceVsock = []string{"/usr/libexec/vhost-device-vsock", "/usr/lib/vhost-device-vsock"}
)

// Find returns the path of a program: name as it is where it is a path, or looked
// up in PATH and then among the known places. file is the configuration that can
// name another, for the error.
func Find(name, file string, known ...string) (string, error) {
	for _, place := range append([]string{name}, known...) {
		if path, err := exec.LookPath(place); err == nil {
			return path, nil
		}
	}
	where := "PATH"
	if len(known) > 0 {
		where = fmt.Sprintf("PATH or in %v", known)
	}
	return "", fmt.Errorf("%s was not found in %s; install it, or name it in %s", name, where, file)
}
