// Package began knows when this process of the shim began.
//
// It imports only the clock, because a package is initialised as soon as those
// that it imports are: the reading is taken before the many others of the
// program are set up, which is part of what a container's start costs.
package began

import "time"

var at = time.Now()

// At is when the process began.
func At() time.Time { return at }
