package share

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types"
)

// layered are the mounts of an image of n layers, each a folder with a file of its
// number in it, as a snapshotter of containerd 2.2 describes them.
func layered(t *testing.T, n int) []*types.Mount {
	t.Helper()
	mounts := []*types.Mount{{Type: "tmpfs", Source: "scratch"}}
	for i := 1; i <= n; i++ {
		dir := t.TempDir()
		for name, content := range map[string]string{"top": fmt.Sprint(i), fmt.Sprint("layer", i): ""} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		mounts = append(mounts, &types.Mount{Type: "bind", Source: dir, Options: []string{"rbind", "ro"}})
	}
	return append(mounts, &types.Mount{
		Type: "format/mkdir/overlay", Source: "overlay",
		Options: []string{
			"X-containerd.mkdir.path={{ mount 0 }}/upper:0755",
			"X-containerd.mkdir.path={{ mount 0 }}/a/work:0711:1:2",
			"workdir={{ mount 0 }}/a/work", "upperdir={{ mount 0 }}/upper", fmt.Sprintf("lowerdir={{ overlay %d 1 }}", n),
		},
	})
}

func TestMountRootfsInSteps(t *testing.T) {
	const layers = 100
	bundle := t.TempDir()
	root := filepath.Join(bundle, "rootfs")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	unmount, err := MountRootfs(layered(t, layers), root)
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= layers; i++ {
		if _, err := os.Stat(filepath.Join(root, fmt.Sprint("layer", i))); err != nil {
			t.Error(err)
		}
	}
	if got, err := os.ReadFile(filepath.Join(root, "top")); err != nil || string(got) != fmt.Sprint(layers) {
		t.Errorf("the uppermost layer is %q, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(root, "written"), nil, 0o644); err != nil {
		t.Error(err)
	}
	if err := unmount(); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(bundle)
	if err != nil || len(entries) != 1 || len(mountsBelow(t, bundle)) != 0 {
		t.Errorf("left: %v, %v and %v", entries, err, mountsBelow(t, bundle))
	}
}

func TestMountRootfsThatCannotBe(t *testing.T) {
	for what, options := range map[string][]string{
		"names no mount":   {"lowerdir={{ mount 1 }}"},
		"names no mount ":  {"lowerdir={{ overlay 0 }}"},
		"names no mount  ": {"lowerdir={{ overlay 0 7 }}"},
		"not known":        {"lowerdir={{ mount 0 }}:{{ exec 1 }}"},
		"lies in no mount": {"X-containerd.mkdir.path=/root/x"},
		"the mode is none": {"X-containerd.mkdir.path={{ mount 0 }}/x:1777"},
		"UID":              {"X-containerd.mkdir.path={{ mount 0 }}/x:755:1"},
		"escapes":          {"X-containerd.mkdir.path={{ mount 0 }}/link/x"},
		"mount 1, overlay": {"lowerdir={{ mount 0 }}/none"},
	} {
		bundle, scratch := t.TempDir(), t.TempDir()
		root := filepath.Join(bundle, "rootfs")
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/root", filepath.Join(scratch, "link")); err != nil {
			t.Fatal(err)
		}
		_, err := MountRootfs([]*types.Mount{
			{Type: "bind", Source: scratch, Options: []string{"rbind"}},
			{Type: "format/mkdir/overlay", Source: "overlay", Options: options},
		}, root)
		if err == nil || !strings.Contains(err.Error(), strings.TrimSpace(what)) {
			t.Errorf("%s: %v", options, err)
		}
		if left := mountsBelow(t, bundle); len(left) > 0 {
			t.Errorf("%s: left: %v", options, left)
		}
	}
	if _, err := MountRootfs([]*types.Mount{{Type: "format/mkfs/ext4"}}, t.TempDir()); err == nil || !strings.Contains(err.Error(), `"mkfs/ext4" is not known`) {
		t.Errorf("an unknown type: %v", err)
	}
}

func FuzzFormat(f *testing.F) {
	f.Add("lowerdir={{ overlay 1 0 }}:{{mount 0}}")
	f.Add("{{ source 2 }}{{{{ mount 1 }}}}")
	f.Fuzz(func(t *testing.T, text string) {
		out, err := format(text, []step{{source: "a", target: "b", at: "/c"}, {at: "/d"}})
		if err == nil && len(out) > 3*len(text) {
			t.Errorf("%q became %q", text, out)
		}
	})
}
