package annotations

import (
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nanoclaw/nanoclaw/annotations/pattern"
)

// Kind is what a mount's source is.
type Kind string

// The kinds of sources.
const (
	KindDir    Kind = "folder"
	KindFile   Kind = "file"
	KindSocket Kind = "socket"
	KindFIFO   Kind = "named pipe"
	KindChar   Kind = "character device"
	KindBlock  Kind = "block device"
)

// Source is what a bind mount's source was found to be. All names are clean and
// absolute.
type Source struct {
	// Asked is the source as the spec has it.
	Asked string
	// Path is what it resolved to, without symbolic links.
	Path string
	// Aliases are other names of the same thing: where it lies on its file
	// system as other mounts of that file system show it.
	Aliases []string
	// Contains are mount points whose content lies below it on its file system,
	// though not below Path.
	Contains []string
	// FSType is the type of its file system, such as "ext4".
	FSType string
	Kind   Kind
	// Major and Minor identify a device.
	Major, Minor uint32
	// Holds are the [Policy.Probes] that exist below it.
	Holds []string
	// Inside are the mounts below it, which are shared with it.
	Inside []Source
}

// Mount is a bind mount to be judged.
type Mount struct {
	Destination string
	// ReadOnly is whether it was asked to be.
	ReadOnly bool
	Source   Source
}

// CheckMount judges a bind mount by what its source resolved to, and by all rules
// whatever the mode is; [Policy.Admit] heeds that. The policy must come from [Policy.OnHost] where the host has symbolic links of its own.
func (p *Policy) CheckMount(m Mount) error {
	if p.ownFile(m) && !p.hasAlias(m) {
		return p.checkHidden(m)
	}
	if err := p.checkAllowed(m); err != nil && !initProgram(m) {
		return err
	}
	if err := p.checkKind(m); err != nil {
		return err
	}
	if HarmlessDevice(m.Source) {
		return nil
	}
	if err := p.checkHidden(m); err != nil {
		return err
	}
	if err := p.checkPlaces(m, m.Source, ""); err != nil {
		return err
	}
	if err := p.checkSource(m, m.Source, ""); err != nil && !initProgram(m) {
		return err
	}
	for _, inside := range m.Source.Inside {
		prefix := "it contains the mount " + quote(inside.Path) + ", and "
		if err := p.checkPlaces(m, inside, prefix); err != nil {
			return err
		}
		if err := p.checkSource(m, inside, prefix); err != nil {
			return err
		}
	}
	return nil
}

// hasAlias reports whether one of the engine's own files is in truth another
// place that was mounted there.
func (p *Policy) hasAlias(m Mount) bool {
	for _, a := range m.Source.Aliases {
		if p.place(a) != nil && !p.inEngine(a) {
			return true
		}
	}
	return false
}

func (p *Policy) inEngine(name string) bool {
	return slices.ContainsFunc(p.engine(), func(folder string) bool { return below(name, folder) })
}

// ReadOnly reports whether the policy's rules force a mount to be read-only.
func (p *Policy) ReadOnly(destination string) bool {
	return slices.ContainsFunc(p.Mounts.Readonly, func(r Readonly) bool { return r.covers(destination) })
}

func (r Readonly) covers(destination string) bool {
	return r.Destination == "*" || r.Destination == path.Clean(destination)
}

func (p *Policy) checkKind(m Mount) error {
	refuse := func(rule, why, instead string) error {
		return &Refusal{Rule: rule, Origin: baseline, What: describe(m), Why: why, Instead: instead}
	}
	switch m.Source.Kind {
	case KindDir, KindFile:
		return nil
	case KindSocket, KindFIFO:
		why := "it is a " + string(m.Source.Kind) + " of the host, and what listens on the host's side cannot be reached from inside a VM"
		instead := "let the two talk over the network: publish a port, or put both on one Docker network"
		if place := p.place(m.Source.Path); place != nil && place.Kind == "an engine or agent socket" {
			why = "it is " + place.Kind + ": whoever can speak to it controls the host or acts with a person's keys"
			instead = "start the container without it; what needs the engine cannot run isolated from it"
			return refuse(place.Rule, why, instead)
		}
		if engineSocket(m.Source.Path) {
			return refuse("mounts.refuse sockets", "it is a socket of an engine or of an agent that holds keys", "start the container without it")
		}
		return refuse("mounts.refuse sockets", why, instead)
	case KindChar:
		if HarmlessDevice(m.Source) {
			return nil
		}
	}
	return refuse("mounts.refuse devices",
		"it is a "+string(m.Source.Kind)+" of the host's, and only null, zero, full, random and urandom have a counterpart in the VM",
		"start the container without it")
}

// engineSocket recognises sockets whose names vary: ssh-agent's.
func engineSocket(name string) bool {
	dir, base := path.Split(name)
	return strings.HasPrefix(base, "agent.") && strings.Contains(dir, "/ssh-")
}

// HarmlessDevice reports whether a source is one of the devices that every
// machine has and that give access to nothing. The VM's own takes its place.
func HarmlessDevice(s Source) bool {
	return s.Kind == KindChar && s.Major == 1 && DeviceName(s) != ""
}

// DeviceName is the name below /dev of a [HarmlessDevice], or "".
func DeviceName(s Source) string {
	if s.Kind != KindChar || s.Major != 1 {
		return ""
	}
	switch s.Minor {
	case 3:
		return "null"
	case 5:
		return "zero"
	case 7:
		return "full"
	case 8:
		return "random"
	case 9:
		return "urandom"
	}
	return ""
}

// kernelFS are file systems through which one speaks to the host's kernel,
// wherever they are mounted.
var kernelFS = []string{
	"proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "configfs",
	"bpf", "efivarfs", "pstore", "mqueue", "nsfs", "binfmt_misc", "selinuxfs", "resctrl", "fusectl", "hugetlbfs",
}

// checkPlaces judges every name of one source, and what it holds.
func (p *Policy) checkPlaces(m Mount, s Source, prefix string) error {
	if slices.Contains(kernelFS, s.FSType) {
		return &Refusal{
			Rule: "mounts.refuse kernel", Origin: baseline, What: describe(m),
			Why:     prefix + quote(s.Path) + " is a " + s.FSType + " file system, through which one speaks to the host's kernel",
			Instead: "start the container without it: the VM has its own",
		}
	}
	for _, name := range append([]string{s.Path}, s.Aliases...) {
		place := p.place(name)
		if place == nil {
			continue
		}
		if p.isContent(name, m.ReadOnly) {
			continue
		}
		why := prefix + "its source is " + quote(name)
		if name != s.Asked && name == s.Path {
			why = prefix + "its source resolves to " + quote(name)
		} else if name != s.Path {
			why = prefix + "its source is the same as " + quote(name)
		}
		return p.refusePlace(m, place, why+", "+relation(name, place))
	}
	if p.isContent(s.Path, m.ReadOnly) && !slices.ContainsFunc(s.Aliases, func(a string) bool { return !p.inEngine(a) }) {
		// What a volume holds was put there by containers, what an image holds by
		// its maker: a home folder kept in one is nobody's on the host.
		return nil
	}
	for _, name := range s.Contains {
		// Only a whole place counts: of something mounted somewhere in /run the
		// source is the owner, and /run the guest.
		if i := slices.IndexFunc(p.Mounts.Refuse, func(r Place) bool { return path.IsAbs(r.Path) && below(r.Path, name) }); i >= 0 {
			place := &p.Mounts.Refuse[i]
			return p.refusePlace(m, place, prefix+"the folder "+quote(s.Path)+" holds what is mounted at "+quote(name)+", "+place.Kind)
		}
	}
	for _, held := range s.Holds {
		place := p.credential("/" + held)
		if place == nil {
			continue
		}
		return p.refusePlace(m, place, prefix+"the folder "+quote(s.Path)+" holds "+quote(held)+", "+place.Kind)
	}
	return nil
}

func (p *Policy) refusePlace(m Mount, place *Place, why string) error {
	return &Refusal{
		Rule: place.Rule, Origin: place.Origin, What: describe(m), Why: why,
		Instead: "mount a folder that holds only what the container needs",
	}
}

// place returns the refused place that name is, lies in, or contains.
func (p *Policy) place(name string) *Place {
	for i := range p.Mounts.Refuse {
		r := &p.Mounts.Refuse[i]
		if !path.IsAbs(r.Path) {
			continue
		}
		// Everything lies in "/", which is meant itself.
		if name == r.Path || r.Path != "/" && (below(name, r.Path) || below(r.Path, name)) {
			return p.sharper(name, r)
		}
	}
	for _, folder := range p.Mounts.Engine {
		if below(name, folder) || below(folder, name) {
			return p.sharper(name, &Place{
				Path: folder, Kind: "a folder of the container engine",
				Rule: "mounts.refuse " + folder, Origin: baseline,
			})
		}
	}
	return p.credential(name)
}

// sharper prefers what a person recognises: /run/docker.sock is the engine's
// socket before it is something in /run.
func (p *Policy) sharper(name string, r *Place) *Place {
	if c := p.credential(name); c != nil {
		return c
	}
	return r
}

// credential returns the place of a relative pattern that occurs in name.
func (p *Policy) credential(name string) *Place {
	for i := range p.Mounts.Refuse {
		r := &p.Mounts.Refuse[i]
		if !path.IsAbs(r.Path) && strings.Contains(name+"/", "/"+r.Path+"/") {
			return r
		}
	}
	return nil
}

func relation(name string, place *Place) string {
	switch {
	case !path.IsAbs(place.Path), name == place.Path:
		return place.Kind
	case below(name, place.Path):
		return "which lies in " + place.Path + ", " + place.Kind
	default:
		return "which contains " + place.Path + ", " + place.Kind
	}
}

func describe(m Mount) string {
	return "the mount " + quote(m.Source.Asked) + " -> " + quote(m.Destination)
}

// CheckRootfs judges the folder that is to become a container's root. It comes
// from the engine, but "ctr run --rootfs" lets a person name any.
func (p *Policy) CheckRootfs(s Source) error {
	if s.Kind != KindDir {
		return &Refusal{
			Rule: "rootfs", Origin: baseline, What: "the root file system " + quote(s.Asked),
			Why: "it is a " + string(s.Kind), Instead: "name a folder",
		}
	}
	for _, inside := range s.Inside {
		if slices.Contains(kernelFS, inside.FSType) {
			return &Refusal{
				Rule: "mounts.refuse kernel", Origin: baseline, What: "the root file system " + quote(s.Asked),
				Why:     "it contains the mount " + quote(inside.Path) + ", a " + inside.FSType + " file system of the host's kernel",
				Instead: "unmount that first",
			}
		}
	}
	for _, name := range append([]string{s.Path}, s.Aliases...) {
		for _, r := range p.Mounts.Refuse {
			if !path.IsAbs(r.Path) {
				continue
			}
			// Engines keep root file systems in their folders and below /run.
			ancestor := r.Path != "/" && name != r.Path && below(r.Path, name)
			system := slices.Contains([]string{"/proc", "/sys", "/dev", "/boot", "/etc", "/root"}, r.Path) && below(name, r.Path)
			if name == r.Path || ancestor || system {
				return &Refusal{
					Rule: r.Rule, Origin: r.Origin, What: "the root file system " + quote(s.Asked),
					Why:     "it is " + quote(name) + ", " + relation(name, &r),
					Instead: "unpack the image into a folder of its own",
				}
			}
		}
	}
	return nil
}

// checkDestinations refuses an annotation about a destination at which nothing
// is mounted: a misspelt one would leave the real one writable, or in sight. An
// agent's entry is for containers of many kinds, and may say more than one has.
func checkDestinations(p *Policy, spec *specs.Spec) error {
	mounted := func(where func(destination string) bool) bool {
		return slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return IsBind(m) && where(path.Clean(m.Destination)) })
	}
	for _, r := range p.Mounts.Readonly {
		if r.Layer == LayerAnnotation && r.Destination != "*" && !mounted(func(d string) bool { return d == r.Destination }) {
			return badValue(r.Where, r.Destination, "nothing of the host is mounted there", "name a destination of a -v or --mount")
		}
	}
	for _, h := range p.Mounts.Hide {
		// A pattern that begins with any depth is about every mount.
		if h.Layer == LayerAnnotation && !strings.HasPrefix(h.Pattern, "/**/") && !mounted(func(d string) bool { return pattern.CoversPath(path.Join(d, "**"), h.Pattern) }) {
			return badValue(h.Where, h.Pattern, "nothing of the host is mounted above it", "name paths below a destination of a -v or --mount")
		}
	}
	return nil
}

// IsBind reports whether a mount of the spec shares files of the host.
func IsBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}
