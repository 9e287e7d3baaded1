// Package uptime reads the clock that starts with the guest's kernel, and knows
// what it showed when this program began.
//
// It imports next to nothing, because a package is initialised as soon as those
// that it imports are: the reading is taken before the many others of the
// program are set up.
package uptime

import (
	"time"

	"golang.org/x/sys/unix"
)

var began = Now()

// Began is what the clock showed when the program began.
func Began() time.Duration { return began }

// Now is the time since the kernel began to keep it, or 0 where it has no such
// clock. Setting the time of day does not change it.
func Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
