package config

import (
	"strings"
	"testing"
)

func TestLoadAudit(t *testing.T) {
	path := write(t, "audit:\n  on_full: continue\n  max_size: 1m\n  keep: 3\n")
	want := defaults(path)
	want.Audit.OnFull, want.Audit.MaxSize, want.Audit.Keep = OnFullContinue, 1<<20, 3
	c, err := Load(path)
	if err != nil || c != want {
		t.Errorf("%+v, %v; want %+v: what is not said has its default", c, err, want)
	}
	for _, content := range []string{"audit:\n", "audit: {}\n", "hypervisor: auto\naudit:\n"} {
		path := write(t, content)
		if c, err := Load(path); err != nil || c != defaults(path) {
			t.Errorf("Load(%q) = %+v, %v; want the default", content, c, err)
		}
	}
}

func TestLoadAuditRefuses(t *testing.T) {
	for content, part := range map[string]string{
		"audit: {dir: log}":       "not the absolute path",
		"audit: {dir: /}":         "not the absolute path",
		"audit: {dir: ''}":        "not the absolute path",
		"audit: {on_full: stopp}": "none of stop, continue",
		"audit: {on_full: ''}":    "none of stop, continue",
		"audit: {max_size: 1k}":   "not within",
		"audit: {keep: 1}":        "audit.keep: 1 is not within",
		"audit: {rate: 0}":        "audit.rate: 0 is not within",
		"audit: {burst: -1}":      "audit.burst: -1 is not within",
		"audit: {enabled: false}": "enabled",
	} {
		if _, err := Load(write(t, content)); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("Load(%q) = %v, want an error with %q", content, err, part)
		}
	}
}
