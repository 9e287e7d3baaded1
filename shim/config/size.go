package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

var units = map[byte]int64{'b': 1, 'k': 1 << 10, 'm': 1 << 20, 'g': 1 << 30, 't': 1 << 40}

// ParseSize reads a number of bytes with an optional unit b, k, m, g or t
// (upper case too), in powers of 1024, as Docker's --memory does.
func ParseSize(s string) (int64, error) {
	number, unit := s, int64(1)
	if n := len(s); n > 0 {
		if u, ok := units[strings.ToLower(s)[n-1]]; ok {
			number, unit = s[:n-1], u
		}
	}
	v, err := strconv.ParseInt(number, 10, 64)
	if err != nil || v < 0 || v > math.MaxInt64/unit {
		return 0, fmt.Errorf("%q is not a size such as 512m or 2g", s)
	}
	return v * unit, nil
}
