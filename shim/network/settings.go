package network

import (
	"os"
	"path"
	"path/filepath"
	"strings"
)

// settingTables are where the kernel has settings of one interface, below
// /proc/sys/net. Those of neighbors are not among them: a namespace has no
// defaults to tell them from.
var settingTables = []string{"ipv4/conf", "ipv6/conf"}

// readSettings returns what somebody set for that interface alone, as Docker
// does for the option com.docker.network.endpoint.sysctls: what is another than
// the namespace's default, from which an interface begins. It acts in the calling
// thread's namespace. What cannot be read is what nobody can have set.
func readSettings(name string) map[string]string {
	set := map[string]string{}
	for _, table := range settingTables {
		folder := filepath.Join("/proc/sys/net", table)
		files, err := os.ReadDir(filepath.Join(folder, name))
		if err != nil {
			continue // a kernel without IPv6
		}
		for _, f := range files {
			// The MTU is the link's own, and whether there is IPv6 follows from
			// the addresses.
			if f.Name() == "mtu" || f.Name() == "disable_ipv6" {
				continue
			}
			value, err := os.ReadFile(filepath.Join(folder, name, f.Name()))
			if err != nil {
				continue
			}
			begins, err := os.ReadFile(filepath.Join(folder, "default", f.Name()))
			if err == nil && string(begins) != string(value) {
				set[path.Join(table, f.Name())] = strings.TrimSpace(string(value))
			}
		}
	}
	return set
}
