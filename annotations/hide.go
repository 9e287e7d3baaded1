package annotations

import (
	"path"
	"slices"

	"github.com/nanoclaw/nanoclaw/annotations/pattern"
)

// Hidden returns the patterns of all that is hidden in the container, where one
// of them can match something below a mount's destination; nil where none can.
func (p *Policy) Hidden(destination string) []string {
	all := make([]string, 0, len(p.Mounts.Hide))
	for _, h := range p.Mounts.Hide {
		all = append(all, h.Pattern)
	}
	if pattern.NewWalk(all).To(path.Clean(destination)).Ends() {
		return nil
	}
	return all
}

// caseless are file systems that make no difference between upper and lower
// case: what is hidden by its name could be had by another spelling.
var caseless = []string{"vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk", "cifs", "smb3", "hfs", "hfsplus", "apfs"}

// checkHidden refuses a mount that lies at a hidden place itself: left out, it
// would let the image's own files be seen there, and what is written be lost. It
// also refuses one where names cannot be hidden.
func (p *Policy) checkHidden(m Mount) error {
	for _, h := range p.Mounts.Hide {
		if !pattern.NewWalk([]string{h.Pattern}).To(path.Clean(m.Destination)).Matched() {
			continue
		}
		return &Refusal{
			Rule: "mounts.hide " + h.Pattern, Origin: h.Origin, What: describe(m),
			Why:     "all of it would be hidden: its destination is matched by " + quote(h.Pattern),
			Instead: "start the container without this mount, or have the pattern name what is below it",
		}
	}
	if hide := p.Mounts.Hide; p.Hidden(m.Destination) != nil {
		for _, s := range append([]Source{m.Source}, m.Source.Inside...) {
			if slices.Contains(caseless, s.FSType) {
				return &Refusal{
					Rule: "mounts.hide " + hide[0].Pattern, Origin: hide[0].Origin, What: describe(m),
					Why:     quote(s.Path) + " is on a file system of type " + s.FSType + ", where a hidden name could be had by another spelling (SECRET for secret)",
					Instead: "mount a folder of another file system, or one that holds nothing to be hidden",
				}
			}
		}
	}
	return nil
}
