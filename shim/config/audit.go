package config

import (
	"errors"
	"fmt"
	"path/filepath"
)

// OnFull says what becomes of a container whose records cannot be written.
type OnFull string

// What there is to choose.
const (
	// OnFullStop stops the container: nothing happens without a record.
	OnFullStop OnFull = "stop"
	// OnFullContinue lets it go on, and counts what is not recorded.
	OnFullContinue OnFull = "continue"
)

// Audit is the audit log's part of the configuration. There is no way to turn
// the log off.
type Audit struct {
	// Dir is the log's folder, private to root.
	Dir string `yaml:"dir"`
	// OnFull applies whenever a record cannot be written, the usual reason being
	// a full disk.
	OnFull OnFull `yaml:"on_full"`
	// MaxSize is how large a file becomes before the next is begun; Keep is how
	// many there may be before the oldest is removed.
	MaxSize Size `yaml:"max_size"`
	Keep    int  `yaml:"keep"`
	// Rate is how many records a second one container's guest may cause on
	// average, Burst how many at once.
	Rate  int `yaml:"rate"`
	Burst int `yaml:"burst"`
}

func defaultAudit() Audit {
	return Audit{
		Dir:     "/var/log/nanoclaw",
		OnFull:  OnFullStop,
		MaxSize: 64 << 20,
		Keep:    16,
		Rate:    50,
		Burst:   1000,
	}
}

func (a *Audit) validate() error {
	var errs []error
	if !filepath.IsAbs(a.Dir) || filepath.Clean(a.Dir) == "/" {
		errs = append(errs, fmt.Errorf("audit.dir: %q is not the absolute path of a folder of its own", a.Dir))
	}
	if a.OnFull != OnFullStop && a.OnFull != OnFullContinue {
		errs = append(errs, fmt.Errorf("audit.on_full: %q is none of stop, continue", a.OnFull))
	}
	if a.MaxSize < 64<<10 || a.MaxSize > 1<<40 {
		errs = append(errs, fmt.Errorf("audit.max_size: %d bytes are not within 64k and 1t", a.MaxSize))
	}
	for _, n := range []struct {
		name             string
		value, low, high int
	}{
		{"keep", a.Keep, 2, 10_000},
		{"rate", a.Rate, 1, 100_000},
		{"burst", a.Burst, 1, 1_000_000},
	} {
		if n.value < n.low || n.value > n.high {
			errs = append(errs, fmt.Errorf("audit.%s: %d is not within %d and %d", n.name, n.value, n.low, n.high))
		}
	}
	return errors.Join(errs...)
}
