package share

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestImages(t *testing.T) {
	engine := t.TempDir()
	own, other := strings.Repeat("a", 64), strings.Repeat("b", 64)
	layer := func(digit string) string { return strings.Repeat(digit, 64) }
	records := func(driver string) string { return filepath.Join("image", driver, "layerdb/mounts") }
	for name, content := range map[string]string{
		records("overlay2") + "/" + own + "/mount-id":                          layer("0"),
		records("overlay2") + "/" + own + "-busybox/mount-id":                  layer("1"),
		records("overlay2") + "/" + own + "-busybox/init-id":                   layer("2"),
		records("overlay2") + "/" + own + "-example.org/a/b:1/mount-id":        layer("3"),
		records("overlay2") + "/" + own + "-example.org/a/c:1/mount-id":        layer("4"),
		records("overlay2") + "/" + other + "-busybox/mount-id":                layer("5"),
		records("overlay2") + "/" + own + "-damaged/mount-id":                  "../../" + layer("6"),
		records("vfs") + "/" + own + "-busybox/mount-id":                       layer("7"),
		"rootfs/overlayfs/" + own + "/bin/sh":                                  "",
		"rootfs/overlayfs/" + own + "-busybox/bin/sh":                          "",
		"rootfs/overlayfs/" + other + "-" + own + "-busybox/bin/sh":            "",
		"rootfs/overlayfs/" + own + "-" + "example.org/image/of/others/bin/sh": "",
	} {
		name = filepath.Join(engine, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"overlay2/" + layer("1") + "/merged", "overlay2/" + layer("3") + "/merged", "overlay2/" + layer("4") + "/merged",
		"rootfs/overlayfs/" + own + "-busybox", "rootfs/overlayfs/" + own + "-example.org", "vfs/dir/" + layer("7"),
	}
	for i := range want {
		want[i] = filepath.Join(engine, want[i])
	}
	got := images(engine, own)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("images are at\n%s\nnot at\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, id := range []string{"", "a", own[1:], other[:63] + "/", "../" + own} {
		if got := images(engine, id); len(got) > 0 {
			t.Errorf("container %q has images at %q", id, got)
		}
	}
	if got := images(filepath.Join(engine, "none"), own); len(got) > 0 {
		t.Errorf("no engine has images at %q", got)
	}
}
