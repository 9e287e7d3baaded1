package share

import "path/filepath"

// canonical is the name of a host path without symbolic links; "" where it does
// not exist.
func canonical(name string) string {
	resolved, err := filepath.EvalSymlinks(name)
	if err != nil {
		return ""
	}
	return resolved
}
