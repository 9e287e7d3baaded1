package netconf

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/containerd/log"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
)

const maxSettings = 256

var (
	settingKey   = regexp.MustCompile(`^ipv[46]/conf/[a-z0-9_]{1,64}$`)
	settingValue = regexp.MustCompile(`^[0-9a-f:-]{1,64}$`)
)

// checkSettings returns the settings of an interface, which are names and values
// of files.
func checkSettings(i *agent.Interface) (map[string]string, error) {
	if len(i.GetSettings()) > maxSettings {
		return nil, invalid("more than %d settings of %s", maxSettings, i.GetName())
	}
	for key, value := range i.GetSettings() {
		if !settingKey.MatchString(key) || !settingValue.MatchString(value) {
			return nil, invalid("setting %.100q=%.100q", key, value)
		}
	}
	return i.GetSettings(), nil
}

// applySettings sets what is set for the interface of that name, and takes back
// what was set before and is not any more. What this kernel does not have, where the
// host's does, is named in the log.
func (s *Sandbox) applySettings(ctx context.Context, l link) error {
	before := s.settings[l.device]
	s.settings[l.device] = l.settings
	if maps.Equal(before, l.settings) {
		return nil
	}
	return s.do(func() error {
		for _, key := range slices.Sorted(maps.Keys(l.settings)) {
			if err := os.WriteFile(settingFile(key, l.name), []byte(l.settings[key]), 0); err != nil {
				log.G(ctx).WithError(err).Warnf("network: left out net/%s=%s of interface %s", key, l.settings[key], l.name)
			}
		}
		for key := range before {
			if _, stays := l.settings[key]; stays {
				continue
			}
			begins, err := os.ReadFile(settingFile(key, "default"))
			if err == nil {
				err = os.WriteFile(settingFile(key, l.name), begins, 0)
			}
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("set net/%s back: %w", key, err)
			}
		}
		return nil
	})
}

func settingFile(key, name string) string {
	return filepath.Join("/proc/sys/net", path.Dir(key), name, path.Base(key))
}
